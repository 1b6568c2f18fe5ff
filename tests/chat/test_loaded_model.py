"""`load_model` and the answers of the loaded model."""

from dataclasses import replace
from pathlib import Path

import pytest

from fledge.chat.loaded_model import load_model
from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.core.types import Message
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import register

OVERFITTING = "Question: What is overfitting?\nAnswer:"
MLOPS = "Question: What is MLOps?\nAnswer:"


def test_texts_are_completed_in_order_and_streamed(workspace: Workspace) -> None:
    with load_model("embedded", config=ExperimentConfig(workspace.tracking_uri)) as model:
        answer = model.generate(OVERFITTING)
        assert answer.startswith("Overfitting happens when")
        first, second = model.generate([MLOPS, OVERFITTING])
        assert "MLOps" in first
        assert second == answer
        assert model.generate([]) == []
        pieces = list(model.stream(OVERFITTING))
        assert len(pieces) > 5
        assert "".join(pieces) == answer
        assert len(model.generate(OVERFITTING, max_tokens=3)) < 20
        assert model.generate(OVERFITTING, stop="learns") == "Overfitting happens when a model"
        assert repr(model).startswith("<LoadedModel 'embedded' on ")
    with pytest.raises(FledgeError, match="closed"):
        model.generate(OVERFITTING)
    model.close()  # closing twice is harmless


@pytest.mark.slow
def test_text_is_a_user_turn_for_a_model_with_a_chat_template(workspace: Workspace, instruct_model: Path) -> None:
    with load_model(str(instruct_model), config=ExperimentConfig(workspace.tracking_uri)) as model:
        answer = model.generate("What is overfitting?")
        assert answer
        assert model.generate([{"role": "user", "content": "What is overfitting?"}]) == answer
        assert model.generate((Message("user", "What is overfitting?"),)) == answer


def test_release_uses_its_own_prompt_and_settings(workspace: Workspace) -> None:
    config = ExperimentConfig(workspace.tracking_uri, workspace.state, generation=GenerationParams(max_tokens=5))
    register(config, name="mine", prompt="simple")
    config = ExperimentConfig(workspace.tracking_uri, workspace.state)
    with load_model("models:/mine/1", config=config) as model:
        assert model.generation.max_tokens == 5
        whole = model.generate("What is machine learning?", max_tokens=60)
        assert whole.startswith("Machine learning is the study of programs")
        assert whole.startswith(model.generate("What is machine learning?"))
    with load_model("models:/mine/1", config=replace(config, generation=GenerationParams(max_tokens=7))) as model:
        assert model.generation.max_tokens == 7


@pytest.mark.parametrize(
    ("prompt", "settings", "problem"),
    [
        ("x", {"temprature": 1}, "unknown generation setting 'temprature'"),
        ("x", {"n": 2}, "unknown generation setting 'n'"),
        ("x", {"temperature": 9}, "temperature must be from 0 to 2, not 9"),
        ([{"role": "bot", "content": "x"}], {}, "invalid turn of a conversation"),
        ([Message("user", "x"), "y"], {}, "invalid turn of a conversation"),
    ],
)
def test_invalid_prompts_and_settings_are_refused(prompt: str, settings: dict[str, float], problem: str) -> None:
    with load_model("embedded", config=ExperimentConfig(engine="scripted")) as model:
        with pytest.raises(InputError, match=problem):
            model.generate(prompt, **settings)
        with pytest.raises(InputError, match=problem):
            model.stream(prompt, **settings)
