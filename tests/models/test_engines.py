"""The engines on the model in the box: the same tokens, streams, cancellation."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.models import selection, snapshot
from fledge.models.embedded.corpus import load_corpus
from fledge.models.embedded.templates import TEMPLATES
from fledge.models.engine import Engine, GenerationParams, generate

QUESTION = TEMPLATES["simple"].replace("{{question}}", "What is machine learning?")


@pytest.fixture(scope="module", params=["openvino", "transformers"])
def engine(request: pytest.FixtureRequest, engine_cache: Path) -> Iterator[Engine]:
    started = selection.start(request.param, snapshot.resolve("embedded"), engine_cache)
    yield started
    started.close()


@pytest.mark.slow
def test_openvino_gives_the_tokens_of_transformers(embedded_engine: Engine, engine_cache: Path) -> None:
    assert embedded_engine.name == "openvino"
    prompts = [
        template.replace("{{question}}", entry.held_out[0])
        for entry, template in zip(load_corpus()[::20], list(TEMPLATES.values()) * 10, strict=False)
    ]
    params = GenerationParams(max_tokens=64)
    reference = selection.start("transformers", snapshot.resolve("embedded"), engine_cache)
    try:
        theirs = generate(reference, prompts, params)
    finally:
        reference.close()
    ours = generate(embedded_engine, prompts, params)
    assert [item.token_ids for item in ours] == [item.token_ids for item in theirs]


@pytest.mark.slow
def test_counts_reasons_and_times(engine: Engine) -> None:
    whole, cut = (generate(engine, [QUESTION], GenerationParams(max_tokens=n))[0] for n in (96, 5))
    assert whole.finish_reason == "stop"
    assert whole.text.strip().endswith(".")
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 5)
    assert whole.text.startswith(cut.text)
    assert 0 < whole.ttft_s <= whole.seconds
    assert whole.prompt_tokens > 5


@pytest.mark.slow
def test_stop_text_ends_the_answer(engine: Engine) -> None:
    whole = generate(engine, [QUESTION], GenerationParams(max_tokens=96))[0].text
    stop = whole.split()[4]
    cut = generate(engine, [QUESTION], GenerationParams(max_tokens=96, stop=(stop,)))[0]
    assert cut.finish_reason == "stop"
    assert cut.text == whole[: whole.index(stop)]


@pytest.mark.slow
def test_sampling_is_seeded(engine: Engine) -> None:
    def sample(seed: int) -> str:
        params = GenerationParams(max_tokens=40, temperature=2.0, seed=seed)
        return generate(engine, ["Question: What"], params)[0].text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(6)}) > 1


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_refused_and_harms_no_other(engine: Engine) -> None:
    with pytest.raises(InputError, match="tokens; the model takes 512"):
        engine.submit("word " * 1000, GenerationParams())
    assert generate(engine, [QUESTION], GenerationParams())[0].finish_reason == "stop"


@pytest.mark.slow
def test_openvino_streams_cancels_and_goes_on(embedded_engine: Engine) -> None:
    stream = embedded_engine.submit(QUESTION, GenerationParams(max_tokens=96))
    chunks = iter(stream)
    first = next(chunks)
    stream.cancel()
    rest = list(chunks)
    assert first.token_ids
    assert rest[-1].finish_reason in ("cancelled", "stop")
    assert generate(embedded_engine, [QUESTION], GenerationParams())[0].finish_reason == "stop"


@pytest.mark.slow
def test_a_closed_engine_says_so(engine_cache: Path) -> None:
    engine = selection.start("openvino", snapshot.resolve("embedded"), engine_cache)
    engine.close()
    with pytest.raises(FledgeError, match="closed"):
        engine.submit(QUESTION, GenerationParams())


def test_choice_is_explained() -> None:
    assert selection.choose("auto").name == "openvino"
    assert selection.choose("auto").reason
    assert selection.choose("scripted").name == "scripted"
    with pytest.raises(InputError, match="no engine 'tgi'"):
        selection.choose("tgi")
