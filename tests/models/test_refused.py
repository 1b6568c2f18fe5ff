"""Malicious and broken model folders are refused before anything of them is loaded."""

import json
import pickle
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError
from fledge.models import snapshot
from tests.models.broken_models import CASES, payload, write_model


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    breaking, error, words = CASES[case]
    breaking(folder)
    with pytest.raises(FledgeError, match=words) as caught:
        snapshot.resolve(str(folder))
    assert type(caught.value) is error
    assert caught.value.hint
    assert not (tmp_path / "executed").exists()


def test_the_folder_they_start_from_is_good(tmp_path: Path) -> None:
    model = snapshot.resolve(str(write_model(tmp_path / "model")))
    assert (model.parameters, model.vocabulary, model.context, model.end_tokens) == (448, 40, 16, (0,))


def test_a_payload_that_ran_would_be_seen(tmp_path: Path) -> None:
    pickle.loads(payload(tmp_path / "model"))  # noqa: S301 (it is ours, and this is its point)
    assert (tmp_path / "executed").exists()


def test_a_word_of_the_vocabulary_is_not_code(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "vocab.json").write_text('{"auto_map": 0, "trust_remote_code": 1}')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"auto_map": 0}}}')
    assert "vocab.json" in snapshot.resolve(str(folder)).files


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "old.safetensors").write_bytes(b"not used, not opened")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte": "part.safetensors"}}))
    model = snapshot.resolve(str(folder))
    assert model.parameters == 448
    assert "old.safetensors" not in model.files


def test_a_link_within_the_folder_is_fine(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    assert snapshot.resolve(str(folder)).parameters == 448
