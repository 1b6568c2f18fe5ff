"""Manifests: prompt formats, system texts, and manifests of older versions."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from fledge.core.types import Message
from fledge.releases.manifest import MANIFEST, Manifest, load_manifest

TEXT = Manifest("mine", "org/model", "", "d" * 64, "qa", 1, "Q: {{question}}", {"max_tokens": 8}, version=1)
CONVERSATION = replace(TEXT, template=(Message("user", "{{question}}"),), format=None)
# Computed for these two before manifests had a format.
DIGESTS = {
    "text": (
        "4e0d8ba4b051cf68aa47da378b84d347ded31c5b2ded835a3dca6b1b0eb84059",
        "a222e10622713c744f8f77f5c60b6ed55767e7885c93e4e0dcaff08a71629ad9",
    ),
    "conversation": (
        "05683ec7f03c87e93ea9c8d9e39faf4c5de41df5beaa7d5db950013c2b0c0d73",
        "47b89486b1a450feb019fb6a367ba1b65f91d8d3e12cbbb0f0a4e9cafd0bad73",
    ),
}


def _write_old_manifest(manifest: Manifest, folder: Path) -> Path:
    content = {name: value for name, value in asdict(manifest).items() if name not in ("format", "system")}
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


def test_a_manifest_without_a_format_keeps_its_digests_and_implies_one(tmp_path: Path) -> None:
    for name, manifest, prompt_format in (("text", TEXT, "completion"), ("conversation", CONVERSATION, "chat")):
        found = load_manifest(_write_old_manifest(manifest, tmp_path))
        assert found == manifest
        assert found.format == prompt_format
        assert (found.digest, found.seal) == DIGESTS[name]


def test_format_and_system_text_change_the_digest_and_the_seal() -> None:
    chat = replace(TEXT, format="chat")
    with_system = replace(chat, system="Be kind.")
    assert len({TEXT.digest, chat.digest, with_system.digest}) == 3
    assert len({TEXT.seal, chat.seal, with_system.seal}) == 3
