"""Guarantees of every engine, on the embedded model, each in its process."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines import selection
from fledge.engines.engine import Engine, PromptInput, generate
from fledge.engines.local_engine import LocalEngine
from fledge.engines.settings import EngineSettings
from fledge.engines.stream import Completion
from fledge.engines.text import Text
from fledge.engines.transformers import create_text_config, load
from fledge.models import snapshot
from fledge.models.embedded.templates import TEMPLATES
from tests.engines.engine_child import engine_process

QUESTION = TEMPLATES["simple"].replace("{{question}}", "What is machine learning?")
ENGINES = ("openvino", "transformers", "paged")

pytestmark = pytest.mark.slow


# The engine for GPUs; it also runs on a CPU.
PAGED = """
from fledge.core.types import EngineInfo
from fledge.engines.transformers_paged import PagedTransformersEngine
from fledge.models import snapshot
model = snapshot.resolve("embedded")
engine = PagedTransformersEngine(model, EngineInfo("transformers", "cpu", "exact", "as set"), cache_gb=1)
"""


@contextmanager
def run_engine(name: str) -> Iterator[Engine]:
    if name == "paged":
        with engine_process(PAGED) as connection:
            yield connection
        return
    started = selection.start(EngineSettings(engine=name), snapshot.resolve("embedded"))  # type: ignore[arg-type]
    with closing(started):
        yield started


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with run_engine(request.param) as started:
        yield started


def one(engine: Engine, prompt: PromptInput = QUESTION, **params: Any) -> Completion:
    return generate(engine, [prompt], GenerationParams(**params))[0]


def test_an_answer_has_counts_finish_reason_and_times(engine: Engine) -> None:
    whole, cut = one(engine, max_tokens=96), one(engine, max_tokens=5)
    assert whole.finish_reason == "stop"
    assert whole.text.strip().endswith(".")
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 5)
    assert whole.text.startswith(cut.text)
    assert 0 < whole.ttft_s <= whole.seconds
    assert whole.usage.prompt_tokens > 5
    assert whole.usage.completion_tokens == len(whole.token_ids)


def test_stop_text_ends_the_answer(engine: Engine) -> None:
    whole = one(engine, max_tokens=96).text
    stop = whole.split()[4]
    cut = one(engine, max_tokens=96, stop=(stop,))
    assert cut.finish_reason == "stop"
    assert cut.text == whole[: whole.index(stop)]


def test_ignore_eos_continues_after_the_end_token(engine: Engine) -> None:
    whole = one(engine, max_tokens=96)
    beyond = one(engine, max_tokens=whole.completion_tokens + 10, ignore_eos=True)
    assert beyond.finish_reason == "length"
    assert beyond.token_ids[: whole.completion_tokens] == whole.token_ids


def test_logprobs_match_the_model(engine: Engine) -> None:
    answer = one(engine, max_tokens=12, logprobs=True)
    model = snapshot.resolve("embedded")
    tokens = [*Text(create_text_config(model)).encode(QUESTION, 12).token_ids, *answer.token_ids]
    with torch.no_grad():
        logits = load(model, "cpu")(torch.tensor([tokens])).logits[0].log_softmax(-1)
    start = len(tokens) - 12
    expected = [float(logits[start - 1 + place, token]) for place, token in enumerate(answer.token_ids)]
    assert answer.logprobs == pytest.approx(expected, abs=1e-3)


def test_strict_sampling_filters_give_the_greedy_answer(engine: Engine) -> None:
    greedy = one(engine, max_tokens=20).token_ids
    for narrow in ({"top_k": 1}, {"top_p": 0.01}, {"min_p": 0.99}):
        assert one(engine, max_tokens=20, temperature=1.5, **narrow).token_ids == greedy


def test_repetition_penalty_changes_the_answer_or_is_refused(engine: Engine) -> None:
    if not isinstance(engine, LocalEngine):  # the paged one
        with pytest.raises(InputError, match="does not support repetition_penalty"):
            one(engine, repetition_penalty=5.0)
        return
    assert one(engine, max_tokens=40, repetition_penalty=5.0).token_ids != one(engine, max_tokens=40).token_ids


@pytest.mark.parametrize("name", ["openvino", "transformers"])
def test_seeded_sampling_does_not_depend_on_other_requests(name: str) -> None:
    with run_engine(name) as started:
        first = GenerationParams(max_tokens=30, temperature=1.5)
        params = [first.for_sample(index) for index in range(6)]
        alone = [started.submit(QUESTION, item).result().text for item in params]
        together = [stream.result().text for stream in [started.submit(QUESTION, item) for item in params]]
        several = started.submit(QUESTION, GenerationParams(max_tokens=30, temperature=1.5, n=6)).results()
    assert len(set(alone)) > 1
    assert together == alone
    assert [item.text for item in several] == alone


def test_requests_with_different_settings_run_concurrently(engine: Engine) -> None:
    settings: list[dict[str, Any]] = [{"max_tokens": 3}, {"max_tokens": 9}, {"temperature": 1.0}, {"stop": ("the",)}]
    streams = [engine.submit(QUESTION, GenerationParams(**item)) for item in settings]
    assert [stream.result().completion_tokens for stream in streams[:2]] == [3, 9]
    assert all(stream.result().finish_reason for stream in streams[2:])


def test_a_prompt_that_does_not_fit_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="tokens; the model takes 512"):
        one(engine, "word " * 1000)
    with pytest.raises(InputError, match="beyond the model's 2048"):
        one(engine, [5, 2048])
    assert one(engine).finish_reason == "stop"


def test_a_tiny_temperature_is_greedy(engine: Engine) -> None:
    assert one(engine, temperature=1e-46).token_ids == one(engine).token_ids
    with pytest.raises(ValueError, match=r"min_p must be from 0 to 0\.999"):
        GenerationParams(temperature=1, min_p=1)


def test_an_answer_at_the_end_of_the_window_does_not_stop_others(engine: Engine) -> None:
    """Positions are learned, and also advance for rows that have ended."""
    long = engine.submit([5] * 500, GenerationParams(max_tokens=4, ignore_eos=True))
    short = engine.submit(QUESTION, GenerationParams(max_tokens=60, ignore_eos=True))
    assert long.result().completion_tokens == 4
    assert short.result().token_ids == one(engine, max_tokens=60, ignore_eos=True).token_ids


def test_turns_left_out_of_a_long_conversation_are_counted(engine: Engine) -> None:
    turns = [Message("user", "old words " * 200), Message("assistant", "x"), Message("user", "What is overfitting?")]
    answer = one(engine, turns, max_tokens=20)
    assert answer.turns_left_out == 2
    assert answer.token_ids == one(engine, turns[2:], max_tokens=20).token_ids


def test_a_cancelled_answer_ends_and_frees_its_slot(engine: Engine) -> None:
    stream = engine.submit(QUESTION, GenerationParams(max_tokens=400, ignore_eos=True))
    chunks = iter(stream)
    next(chunks)
    stream.cancel()
    rest = list(chunks)
    assert rest[-1].finish_reason == "cancelled"
    assert sum(len(chunk.token_ids) for chunk in rest) < 50
    assert one(engine).finish_reason == "stop"
    assert engine.stats().running == 0


@pytest.mark.parametrize("name", ["openvino", "paged"])
def test_a_request_joins_the_running_batch(name: str) -> None:
    with run_engine(name) as started:
        long = GenerationParams(max_tokens=400, ignore_eos=True)
        others = [started.submit(QUESTION, long) for _ in range(15)]
        first = [next(iter(stream)) for stream in others]
        joined = started.submit(QUESTION, GenerationParams(max_tokens=2)).result()
        assert len(first) == 15
        assert joined.completion_tokens == 2
        assert started.stats().running == 15  # all are still running
        for stream in others:
            stream.cancel()
        assert {stream.result().finish_reason for stream in others} == {"cancelled"}


def test_a_prompt_larger_than_the_paged_cache_is_refused() -> None:
    small = PAGED.replace("cache_gb=1", "cache_gb=1e-9").replace(
        "engine = ", "from dataclasses import replace\nmodel = replace(model, context=4096)\nengine = "
    )
    with engine_process(small) as engine:
        with pytest.raises(InputError, match="the model takes 768"):
            one(engine, [5] * 1000)
        assert one(engine).finish_reason == "stop"


# The model fails at one token, anywhere in a batch; the file STEPS counts its steps.
POISON = 1999
POISONED = f"""
from pathlib import Path
from fledge.core.types import EngineInfo
from fledge.engines.transformers import TransformersEngine
from fledge.models import snapshot
engine = TransformersEngine(snapshot.resolve("embedded"), EngineInfo("transformers", "cpu", "exact", "as set"))
steps = []
def step(_model, _args, kwargs):
    steps.append(1)
    Path(STEPS).write_text(str(len(steps)))
    if (kwargs["input_ids"] == {POISON}).any():
        raise RuntimeError("poison")
engine._model.register_forward_pre_hook(step, with_kwargs=True)
"""


def test_a_poison_prompt_fails_alone(tmp_path: Path) -> None:
    prompts = [[token, token + 1, token + 2] for token in range(100, 900, 100)]
    params = GenerationParams(max_tokens=24)
    with run_engine("transformers") as clean:
        expected = [item.token_ids for item in generate(clean, prompts, params)]
    with engine_process(POISONED.replace("STEPS", repr(str(tmp_path / "steps")))) as engine:
        streams = [
            engine.submit([*prompt, POISON] if place == 3 else prompt, params) for place, prompt in enumerate(prompts)
        ]
        for place, stream in enumerate(streams):
            if place == 3:
                with pytest.raises(FledgeError, match="engine failed: poison"):
                    stream.result()
            else:
                assert stream.result().token_ids == expected[place]
        assert int((tmp_path / "steps").read_text()) < 4 * 24 + 8  # retried in groups; one by one would take 7 x 24
        assert generate(engine, prompts[:1], params)[0].token_ids == expected[0]


@pytest.mark.parametrize("name", ENGINES)
def test_close_fails_running_streams(name: str) -> None:
    with run_engine(name) as engine:
        streams = [engine.submit(QUESTION, GenerationParams(max_tokens=400, ignore_eos=True)) for _ in range(3)]
        next(iter(streams[0]))
        engine.close()
        for stream in streams:
            with pytest.raises(FledgeError, match="was closed"):
                list(stream)
        with pytest.raises(FledgeError, match="was closed"):
            engine.submit(QUESTION, GenerationParams())
