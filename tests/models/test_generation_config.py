"""Sampling settings in a model's generation config."""

from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import InputError
from fledge.models import snapshot
from fledge.models.generation_config import read_sampling
from tests.models.instruct_model import write_instruct_model

# As Qwen2.5-0.5B-Instruct has it.
QWEN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, {}),
        (QWEN, {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "min_p": 0.1, "top_k": None}, {"temperature": 1.0, "min_p": 0.1}),
        ({"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"do_sample": False, "temperature": 0.7}, {}),
        ({"num_beams": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0, "guidance_scale": None}, {}),
    ],
)
def test_sampling_settings_are_read_from_the_model(
    tmp_path: Path, content: dict[str, Any], expected: dict[str, Any]
) -> None:
    model = snapshot.resolve(str(write_instruct_model(tmp_path / "model", **content)))
    assert read_sampling(model) == expected


def test_a_model_without_the_file_has_no_settings(tmp_path: Path) -> None:
    folder = write_instruct_model(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    assert read_sampling(snapshot.resolve(str(folder))) == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"num_beams": 4}, r"model/generation_config.json has num_beams 4, which no engine here supports"),
        ({"bad_words_ids": [[1]]}, r"generation_config.json has bad_words_ids \[\[1\]\]"),
    ],
)
def test_an_unsupported_setting_is_refused(tmp_path: Path, content: dict[str, Any], problem: str) -> None:
    model = snapshot.resolve(str(write_instruct_model(tmp_path / "model", **content)))
    with pytest.raises(InputError, match=problem):
        read_sampling(model)
