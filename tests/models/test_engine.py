import pytest

from fledge.models.engine import GenerationParams, Message, generate
from fledge.models.scripted import ScriptedEngine


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tokens": 0},
        {"max_tokens": 5000},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"top_p": 0.0},
        {"top_k": -1},
        {"seed": -1},
        {"repetition_penalty": 0.0},
        {"stop": ("a", "b", "c", "d", "e")},
        {"stop": ("",)},
    ],
)
def test_params_are_bounded(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        GenerationParams(**bad)  # type: ignore[arg-type]


def test_scripted_engine_counts_words_as_tokens() -> None:
    engine = ScriptedEngine(lambda _: "one two three")
    whole, cut = (generate(engine, ["x y"], GenerationParams(max_tokens=n))[0] for n in (5, 2))
    assert (whole.text, whole.finish_reason, whole.completion_tokens) == ("one two three", "stop", 3)
    assert (cut.text, cut.finish_reason, cut.prompt_tokens) == ("one two", "length", 2)


def test_scripted_engine_takes_conversations() -> None:
    turns = [Message("user", "hi"), Message("assistant", "ho"), Message("user", "bye")]
    assert generate(ScriptedEngine(), [turns], GenerationParams())[0].text == "BYE"
