"""Release names derived from models."""

from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.registry.naming import derive_name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("embedded", "huggingface-dialogpt-model"),
        ("smollm2", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct@refs/pr/1", "smollm2-135m-instruct"),
        ("microsoft/DialoGPT-small@main", "dialogpt-small"),
        ("./my Model/", "my-model"),
        ("/models/Llama 3.2 (1B)", "llama-3.2-1b"),
        ("x.Q4_1.gguf", "x"),
        ("models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("org/repo/Qwen3-0.6B-Q4_K_M.gguf@main", "qwen3-0.6b"),
        ("big-F16-00001-of-00002.gguf", "big"),
        ("q8.gguf", "q8"),
        (f"/hub/models--org--Some-Model/snapshots/{40 * 'a'}", "some-model"),
        ("models:/mine/3", "mine"),
        ("mine@champion", "mine"),
        ("./ünï__code", "n-__code"),
    ],
)
def test_name_is_derived_from_the_model(model: str, name: str) -> None:
    assert derive_name(model) == name


def test_current_folder_gives_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Some Model").mkdir()
    monkeypatch.chdir(tmp_path / "Some Model")
    assert derive_name(".") == "some-model"
    (tmp_path / "user@home").mkdir()
    assert derive_name(f"{tmp_path}/user@home") == "user-home"


@pytest.mark.parametrize("model", ["/", "./___", "模型/模型"])
def test_model_without_a_usable_name_is_rejected(model: str) -> None:
    with pytest.raises(InputError, match="cannot derive a release name"):
        derive_name(model)
