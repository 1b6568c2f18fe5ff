import pytest

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines.engine import PromptInput, generate
from fledge.engines.scripted import ScriptedEngine
from fledge.engines.stream import Stream


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
        {"min_p": 1.1},
        {"n": 0},
        {"n": 17},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"temperature": "warm"},
        {"temperature": float("nan")},
    ],
)
def test_out_of_range_parameters_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        GenerationParams(**bad)  # type: ignore[arg-type]


def test_scripted_engine_counts_words_as_tokens() -> None:
    engine = ScriptedEngine(lambda _: "one two three")
    whole, cut = (generate(engine, ["x y"], GenerationParams(max_tokens=n))[0] for n in (5, 2))
    assert (whole.text, whole.finish_reason, whole.completion_tokens) == ("one two three", "stop", 3)
    assert (cut.text, cut.finish_reason, cut.prompt_tokens) == ("one two", "length", 2)


def test_scripted_engine_answers_the_last_turn() -> None:
    turns = [Message("user", "hi"), Message("assistant", "ho"), Message("user", "bye")]
    assert generate(ScriptedEngine(), [turns], GenerationParams())[0].text == "BYE"


def test_scripted_engine_supports_stop_texts_logprobs_and_n() -> None:
    engine = ScriptedEngine(lambda _: "one two STOP three")
    answers = engine.submit("x", GenerationParams(stop=("STOP",), n=2, logprobs=True)).results()
    assert [answer.text for answer in answers] == ["one two "] * 2
    assert len(answers[0].logprobs) == answers[0].completion_tokens == 3
    assert engine.stats().generated_tokens == 6
    assert engine.submit([1, 2, 3], GenerationParams()).prompt_tokens == 3


def test_when_one_prompt_is_refused_the_others_are_cancelled() -> None:
    class Watched(ScriptedEngine):
        def submit(self, prompt: PromptInput, params: GenerationParams) -> Stream:
            streams.append(super().submit(prompt, params))
            return streams[-1]

    streams: list[Stream] = []
    with pytest.raises(InputError, match="empty"):
        generate(Watched(), ["a", "b", ""], GenerationParams())
    assert [stream.cancelled for stream in streams] == [True, True]
