"""The remote engine, with a real server of OpenAI's API."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.core.types import Message
from fledge.engines import remote, selection
from fledge.engines.engine import generate
from fledge.engines.remote import Prices, RemoteEngine
from fledge.engines.settings import EngineSettings
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from tests.engines.openai_server import Server, serve

Start = Callable[..., RemoteEngine]


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(Server()) as running:
        yield running


@pytest.fixture
def start(server: Server) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(url: str = "", **options: Any) -> RemoteEngine:
            engine = RemoteEngine(url or server.url, reason="as set", **options)
            stack.callback(engine.close)
            return engine

        yield started


def test_an_answer_has_usage_and_cost(server: Server, start: Start) -> None:
    engine = start(prices=Prices(prompt=2.0, completion=10.0))
    answer = engine.submit("How are you?", GenerationParams()).result()
    assert (answer.text, answer.finish_reason) == ("One two three.", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 5)
    assert answer.usage.cost == pytest.approx((2.0 * 7 + 10.0 * 5) / 1e6)
    assert 0 < answer.ttft_s <= answer.seconds
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "How are you?"}]
    assert server.bodies[0]["model"] == "first"  # the first that the server lists
    assert engine.stats().generated_tokens == 5


def test_parameters_and_key_are_sent(server: Server, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    engine = start(f"{server.url}#second")
    engine.submit("x", GenerationParams(max_tokens=9, temperature=0.5, seed=3, stop=("a", "b"))).result()
    turns = [Message("system", "s"), Message("user", "u")]
    engine.submit(turns, GenerationParams(top_k=5, min_p=0.1, repetition_penalty=1.2, ignore_eos=True)).result()
    plain, extended = server.bodies
    assert plain["model"] == "second"
    assert (plain["max_tokens"], plain["temperature"], plain["seed"], plain["stop"]) == (9, 0.5, 3, ["a", "b"])
    extensions = {"top_k", "min_p", "repetition_penalty", "ignore_eos"}
    assert not extensions & plain.keys()
    assert {name: extended[name] for name in extensions} == {
        "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True
    }  # fmt: skip
    assert extended["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert set(server.keys) == {"Bearer sk-test"}


def test_each_answer_has_its_own_seed(server: Server, start: Start) -> None:
    answers = start().submit("x", GenerationParams(n=3, seed=40, logprobs=True)).results()
    assert [answer.text for answer in answers] == ["One two three."] * 3
    assert answers[0].logprobs == (-0.5, -0.5, -0.5)
    seeds = {body["seed"] for body in server.bodies}
    assert len(seeds) == 3
    assert 40 in seeds


def test_concurrency_is_limited(server: Server, start: Start) -> None:
    server.pause_s = 0.02
    generate(start(concurrency=3), ["x"] * 12, GenerationParams())
    assert 3 <= server.max_running <= 4  # a request may still be closing when the next one starts


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_temporary_failure_is_retried(server: Server, start: Start, status: int) -> None:
    server.failures = [status, status]
    assert start().submit("x", GenerationParams()).result().text == "One two three."
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("status", "kind", "words", "hint"),
    [
        (401, FledgeError, "rejected the API key", "OPENAI_API_KEY"),
        (403, FledgeError, "rejected the API key", "OPENAI_API_KEY"),
        (404, FledgeError, "has no model 'first'", "/models"),
        (400, InputError, "rejected the request: .*scripted 400", ""),
        (429, FledgeError, "still rate-limits requests", "--remote-concurrency"),
        (500, FledgeError, "scripted 500", "retry"),
    ],
)
def test_a_lasting_failure_is_an_error(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, status: int, kind: type, words: str, hint: str
) -> None:
    monkeypatch.setattr(remote, "RETRIES", 1)
    server.failures = [status] * 10
    with pytest.raises(FledgeError, match=words) as caught:
        start().submit("x", GenerationParams()).result()
    assert type(caught.value) is kind
    assert hint in caught.value.hint


def test_an_incomplete_answer_is_an_error(server: Server, start: Start) -> None:
    server.break_off = True
    with pytest.raises(FledgeError, match="closed the stream before the answer was complete"):
        start().submit("x", GenerationParams()).result()


def test_without_usage_chunks_are_counted(server: Server, start: Start) -> None:
    server.usage, server.finish_reason = False, "length"
    answer = start().submit("x", GenerationParams()).result()
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 3)


def test_a_cancelled_answer_ends_early(server: Server, start: Start) -> None:
    server.words, server.pause_s = ("word ",) * 500, 0.01
    engine = start()
    stream = engine.submit("x", GenerationParams())
    chunks = iter(stream)
    next(chunks)
    stream.cancel()
    assert list(chunks)[-1].finish_reason == "cancelled"


def test_an_unreachable_server_is_an_error(start: Start, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRIES", 0)
    with pytest.raises(FledgeError, match="cannot be reached") as caught:
        start(f"http://127.0.0.1:{port}/v1")
    assert "curl" in caught.value.hint


def test_a_server_without_models_is_refused(server: Server, start: Start) -> None:
    server.models = ()
    with pytest.raises(InputError, match="lists no models"):
        start()


def test_token_ids_and_empty_prompts_are_refused(start: Start) -> None:
    engine = start()
    with pytest.raises(InputError, match="not token ids"):
        engine.submit([1, 2], GenerationParams())
    for empty in ("", " "):
        with pytest.raises(InputError, match="empty"):
            engine.submit(empty, GenerationParams())


def test_a_closed_engine_refuses_prompts(start: Start) -> None:
    engine = start()
    engine.close()
    with pytest.raises(FledgeError, match="the engine is closed"):
        engine.submit("x", GenerationParams())


def test_a_url_selects_the_remote_engine(server: Server) -> None:
    engine = selection.start(EngineSettings(prompt_price=1.0), selection.find(f"{server.url}#first", EngineSettings()))
    assert engine.info.name == "remote"
    assert engine.info.device.startswith("127.0.0.1:")
    engine.close()
    with pytest.raises(InputError, match="cannot run a URL"):
        selection.start(EngineSettings(engine="openvino"), selection.find(server.url, EngineSettings()))


@pytest.mark.slow
def test_an_experiment_runs_on_a_remote_model(server: Server, workspace: Workspace, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        "\n".join(json.dumps({"question": f"Why {n}?", "reference": "One two three."}) for n in range(5))
    )
    config = ExperimentConfig(
        tracking_uri=workspace.tracking_uri,
        state=workspace.state,
        model=f"{server.url}#second",
        questions=str(questions),
        prompts=("simple", "expert"),
        prompt_price=1.0,
    )
    result = run_experiment(config)
    assert (result.cells, result.failed) == (10, 0)
    assert {arm.metrics["token_f1"] for arm in result.arms} == {1.0}
    assert [arm.metrics["cost"] for arm in result.arms] == pytest.approx([5 * 7 / 1e6] * 2)
