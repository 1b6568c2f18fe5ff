"""A model of an architecture that fledge does not check is checked when its weights are loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.engines import selection
from fledge.engines.engine import generate
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot
from tests.models.broken_models import config, text
from tests.models.tiny_models import write_model

pytestmark = pytest.mark.slow

WEIGHTS = "model.safetensors"


def weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def widen_norm(tensors: dict[str, Any]) -> None:
    tensors["gpt_neox.final_layer_norm.weight"] = np.ones(65, np.float32)


def bad_merges(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    text("vocab.json", json.dumps({f"t{number}": number for number in range(2048)}))(folder)
    text("merges.txt", "#version: 0.2\nnothing of\nthe vocabulary here\n")(folder)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing tensor": (
        weights(lambda tensors: tensors.pop("gpt_neox.embed_in.weight")),
        "the weights lack a tensor that the architecture requires: 'gpt_neox.embed_in.weight'",
    ),
    "an extra tensor": (
        weights(lambda tensors: tensors.update(other=np.ones(3, np.float32))),
        "the weights contain a tensor that the architecture does not define: 'other'",
    ),
    "more layers": (
        config(num_hidden_layers=3),
        "lack a tensor that the architecture requires: 'gpt_neox.layers.2",
    ),
    "fewer layers": (
        config(num_hidden_layers=1),
        "a tensor that the architecture does not define: 'gpt_neox.layers.1",
    ),
    "another shape": (
        weights(widen_norm),
        r"'gpt_neox.final_layer_norm.weight' has the shape \[65\]; config.json implies",
    ),
    "a value that only the library knows": (
        config(problem_type="magic"),
        r"rejects .*config\.json: .*Field 'problem_type'",
    ),
    "a method in the config": (config(get_text_config=5), r"rejects .*config\.json: .*TypeError"),
    "invalid merges": (
        bad_merges,
        "cannot build a tokenizer from the files in",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("gpt_neox", tmp_path_factory.mktemp("models") / "good")


@pytest.mark.parametrize(
    ("engine", "case"),
    [
        *(("auto", case) for case in ("a missing tensor", "a value that only the library knows")),
        *(("transformers", case) for case in CASES),
    ],
)
def test_an_inconsistent_model_is_refused(case: str, engine: Any, good: Path, tmp_path: Path) -> None:
    breaking, words = CASES[case]
    folder = tmp_path / "model"
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    breaking(folder)
    progress: list[str] = []
    with pytest.raises(InputError, match=words) as caught:
        selection.start(
            EngineSettings(engine=engine, cache=str(tmp_path / "cache")), snapshot.resolve(str(folder)), progress.append
        )
    assert str(folder) in caught.value.message
    assert caught.value.hint
    assert not any("using transformers instead" in line for line in progress)


@pytest.mark.parametrize("engine", ["openvino", "transformers"])
def test_a_valid_model_answers(engine: Any, good: Path, tmp_path: Path) -> None:
    started = selection.start(EngineSettings(engine=engine, cache=str(tmp_path)), snapshot.resolve(str(good)))
    try:
        (answer,) = generate(started, ["good morning"], GenerationParams(max_tokens=4, ignore_eos=True))
        assert len(answer.token_ids) == 4
    finally:
        started.close()
