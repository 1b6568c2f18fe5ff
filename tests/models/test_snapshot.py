import json
import shutil
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.models import snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model in the box."""
    target = tmp_path / "model"
    shutil.copytree(snapshot.resolve("embedded").path, target)
    return target


def test_digest_is_by_content(folder: Path) -> None:
    original = snapshot.resolve("embedded")
    copy = snapshot.resolve(str(folder))
    assert copy.digest == original.digest
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert snapshot.resolve(str(folder)).digest != original.digest


def test_embedded_is_small_and_whole() -> None:
    model = snapshot.resolve("embedded")
    assert model.architecture == "GPT2LMHeadModel"
    assert model.size <= 12_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(model.files)


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code", "_attn_implementation_internal"])
def test_code_in_a_config_is_refused(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "nested": [{key: "evil"}]}))
    with pytest.raises(FledgeError, match=key):
        snapshot.resolve(str(folder))


def test_pickled_weights_are_not_enough(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(FledgeError, match="no safetensors weights"):
        snapshot.resolve(str(folder))


def test_pickled_weights_beside_are_not_part_of_it(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    assert snapshot.resolve(str(folder)).digest == snapshot.resolve("embedded").digest


def test_unknown_model() -> None:
    with pytest.raises(InputError, match="no model 'nothing'"):
        snapshot.resolve("nothing")
