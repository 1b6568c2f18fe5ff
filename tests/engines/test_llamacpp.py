"""The llama.cpp engine on SmolLM2's own GGUF file."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines import selection
from fledge.engines.engine import PromptInput, generate
from fledge.engines.local_engine import LocalEngine
from fledge.engines.settings import EngineSettings
from fledge.engines.stream import Completion
from fledge.models import snapshot
from fledge.models.snapshot import Snapshot

xllamacpp = pytest.importorskip("xllamacpp")

QUESTION = [Message("user", "What is the capital of France?")]
START = "The capital of France is"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(smollm2: Snapshot) -> Iterator[LocalEngine]:
    if selection.find_gguf(smollm2) is None:
        pytest.skip("smollm2 came from the Hub")
    started = selection.start(EngineSettings(engine="llamacpp"), smollm2)
    assert isinstance(started, LocalEngine)
    with closing(started):
        yield started


def one(engine: LocalEngine, prompt: PromptInput = START, **params: Any) -> Completion:
    return generate(engine, [prompt], GenerationParams(**params))[0]


def test_answer_is_that_of_llama_cpp(engine: LocalEngine, smollm2: Snapshot) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = str(selection.find_gguf(smollm2))
    params.n_ctx, params.verbosity = 2048, 0
    server = xllamacpp.Server(params)
    body = {"messages": [{"role": "user", "content": QUESTION[0].content}], "max_tokens": 24, "temperature": 0}
    theirs = server.handle_chat_completions(body)
    ours = one(engine, QUESTION, max_tokens=24)
    assert ours.text == theirs["choices"][0]["message"]["content"]
    assert ours.finish_reason == theirs["choices"][0]["finish_reason"]
    assert ours.usage.prompt_tokens == theirs["usage"]["prompt_tokens"]
    assert ours.usage.completion_tokens == theirs["usage"]["completion_tokens"]


def test_info_names_the_file_as_the_mode(engine: LocalEngine) -> None:
    assert (engine.info.name, engine.info.device, engine.info.mode) == ("llamacpp", "cpu", "gguf")


def test_stop_text_ends_the_answer(engine: LocalEngine) -> None:
    whole = one(engine, max_tokens=24).text
    assert one(engine, max_tokens=24, stop=("Paris",)).text == whole[: whole.index("Paris")]


def test_seed_repeats_a_draw(engine: LocalEngine) -> None:
    drawn = [one(engine, "Once", max_tokens=12, temperature=1.5, seed=seed).text for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert one(engine, "Once", max_tokens=12, temperature=1.5, top_k=1).text == one(engine, "Once", max_tokens=12).text


def test_every_token_has_its_log_probability(engine: LocalEngine) -> None:
    answer = one(engine, max_tokens=16, logprobs=True)
    assert len(answer.logprobs) == len(answer.token_ids) == answer.completion_tokens == 16
    assert all(value <= 0 for value in answer.logprobs)


def test_tokens_within_a_character_are_counted_but_have_no_log_probabilities(engine: LocalEngine) -> None:
    emojis = "Emojis: 😀 😃 😄 😁 😆 🦊 🦄 🐙"
    assert one(engine, emojis, max_tokens=16).completion_tokens == 16
    with pytest.raises(InputError, match="no log probabilities for tokens that end within a character"):
        one(engine, emojis, max_tokens=16, logprobs=True)


def test_more_answers_than_the_cache_holds_wait_for_their_turn(engine: LocalEngine) -> None:
    streams = [engine.submit(f"Number {number} is", GenerationParams(max_tokens=400)) for number in range(40)]
    done = [stream.result() for stream in streams]
    assert all(answer.finish_reason in ("stop", "length") for answer in done)


def test_cancelled_answer_ends_and_others_go_on(engine: LocalEngine) -> None:
    long = engine.submit("Once upon a time", GenerationParams(max_tokens=4000, ignore_eos=True))
    next(iter(long))
    long.cancel()
    assert long.results()[0].finish_reason == "cancelled"
    assert "Paris" in one(engine, max_tokens=24).text


def test_too_long_a_prompt_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(InputError, match="the model takes 8192"):
        one(engine, "word " * 9000, max_tokens=8)


def test_prompts_from_several_threads_are_answered(engine: LocalEngine) -> None:
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(one(engine, max_tokens=24).text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all("Paris" in text for text in answers)


def test_model_without_a_gguf_file_is_refused() -> None:
    with pytest.raises(InputError, match="needs a GGUF file, and embedded is not one"):
        selection.choose(EngineSettings(engine="llamacpp"), snapshot.resolve("embedded"))


def test_gguf_file_of_the_user_is_found(tmp_path: Path, smollm2: Snapshot) -> None:
    original = selection.find_gguf(smollm2)
    if original is None:
        pytest.skip("smollm2 came from the Hub")
    own = tmp_path / "mine.gguf"
    own.hardlink_to(original)
    found = selection.find_gguf(snapshot.resolve(str(own), tmp_path / "cache"))
    assert found is not None
    assert found.read_bytes()[:4] == b"GGUF"
