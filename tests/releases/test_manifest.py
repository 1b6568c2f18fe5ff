"""Manifests: what they say of format and system text, and that those written before still hold."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from fledge.core.types import Message
from fledge.releases.manifest import MANIFEST, Manifest, load_manifest

TEXT = Manifest("mine", "org/model", "", "d" * 64, "qa", 1, "Q: {{question}}", {"max_tokens": 8}, version=1)
CONVERSATION = replace(TEXT, template=(Message("user", "{{question}}"),), format=None)
# As they were computed for these two before a manifest had a format.
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


def _written_before(manifest: Manifest, folder: Path) -> Path:
    content = {name: value for name, value in asdict(manifest).items() if name not in ("format", "system")}
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


def test_a_manifest_of_before_is_asked_as_it_was_and_keeps_its_digests(tmp_path: Path) -> None:
    for name, manifest, form in (("text", TEXT, "completion"), ("conversation", CONVERSATION, "chat")):
        found = load_manifest(_written_before(manifest, tmp_path))
        assert found == manifest
        assert found.format == form
        assert (found.digest, found.seal) == DIGESTS[name]


def test_another_format_and_another_system_text_are_other_releases() -> None:
    chat = replace(TEXT, format="chat")
    told = replace(chat, system="Be kind.")
    assert len({TEXT.digest, chat.digest, told.digest}) == 3
    assert len({TEXT.seal, chat.seal, told.seal}) == 3
