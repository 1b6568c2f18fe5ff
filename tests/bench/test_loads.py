"""The load generator with a real server on loopback, and its figures compared with hand-computed ones."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from fledge.bench.load_client import LoadTarget, open_client
from fledge.bench.loads import (
    Load,
    LoadAnswer,
    LoadSample,
    Slo,
    arrivals,
    closed_loop,
    figures,
    open_loop,
    prompts,
    run_load,
)
from tests.conftest import PATIENCE_S

TOKENS = 4
SLO = Slo(ttft_s=1.0, latency_s=3.0)


def _sample(due: float, ended: float, ttft: float | None, gaps: list[float], error: str = "") -> LoadSample:
    return LoadSample(due, ended, ttft, gaps, 0 if error else TOKENS, error)


def test_figures_of_a_streamed_load_match_hand_computed_ones() -> None:
    one = [
        _sample(0.0, 2.0, 0.5, [0.5, 0.5, 0.5]),
        _sample(0.0, 4.0, 1.5, [0.5, 1.0, 1.0]),
        _sample(2.0, 6.0, None, [], "HTTP 504"),
    ]
    other = [_sample(1.0, 4.0, 1.0, [0.6, 0.7, 0.7])]
    found = figures([one, other], SLO)
    # Four requests in 6 s and 4 s, of which one failed at the end of its round.
    assert (found.requests, found.errors) == (4, 1)
    assert found.requests_per_s == pytest.approx(3 / 10)
    assert found.output_tokens_per_s == pytest.approx(3 * TOKENS / 10)
    assert found.ttft_p50_s == 1.0
    assert found.inter_token_p50_s == 0.6
    assert found.inter_token_p99_s == pytest.approx(1.0)
    assert found.latency_p50_s == 3.0
    assert found.latency_p99_s == pytest.approx(3.98)
    # The second misses both limits; the fourth just meets them.
    assert found.goodput_per_s == pytest.approx(2 / 10)


def test_an_answer_without_streaming_has_its_first_token_at_the_end() -> None:
    found = figures([[_sample(0.0, 1.0, None, []), _sample(0.0, 2.0, None, [])]], SLO)
    assert (found.ttft_p50_s, found.inter_token_p50_s, found.inter_token_p99_s) == (None, None, None)
    assert found.latency_p50_s == 1.5
    assert found.goodput_per_s == pytest.approx(1 / 2)


def test_there_are_no_latencies_without_answers() -> None:
    found = figures([[_sample(0.0, 5.0, None, [], "HTTP 503")], []], SLO)
    assert (found.requests_per_s, found.goodput_per_s, found.errors) == (0.0, 0.0, 1)
    assert found.latency_p50_s is None
    assert figures([[]], SLO).requests_per_s == 0.0


def test_arrivals_are_a_seeded_poisson_process() -> None:
    times = arrivals(50.0, 200.0, seed=1)
    assert times == arrivals(50.0, 200.0, seed=1) != arrivals(50.0, 200.0, seed=2)
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 200
    assert len(times) == pytest.approx(10_000, abs=400)  # four standard deviations
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05)  # as for exponential gaps


def test_prompts_are_unique_and_have_one_length() -> None:
    texts = list(itertools.islice(prompts(32), 1000))
    assert len({text[:8] for text in texts}) == 1000
    assert {len(text) for text in texts} == {32}
    assert all(text == text.strip() and " " in text for text in texts)
    assert texts == list(itertools.islice(prompts(32), 1000))


def test_latency_counts_from_the_time_a_request_was_due() -> None:
    async def ask(_prompt: str) -> LoadAnswer:
        time.sleep(0.2)  # blocks the loop, so the second request is sent late
        return LoadAnswer(tokens=TOKENS)

    first, second = asyncio.run(open_loop(ask, prompts(8), [0.0, 0.05]))
    assert first.latency_s >= 0.2
    assert second.due_s == pytest.approx(0.05)
    assert second.latency_s >= first.latency_s + 0.2 - 0.05


def test_a_refused_client_pauses() -> None:
    async def ask(_prompt: str) -> LoadAnswer:
        return LoadAnswer(error="HTTP 429")

    samples = asyncio.run(closed_loop(ask, prompts(8), clients=2, seconds=0.45))
    assert 2 <= len(samples) <= 10


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _server(handler: Handler, protocol: str) -> AsyncIterator[LoadTarget]:
    """Run a server with one handler for every path, and yield its target."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    yield LoadTarget(f"http://{host}:{port}", protocol, "m", TOKENS, PATIENCE_S)
    await runner.cleanup()


def _run_load(handler: Handler, protocol: str, load: Load) -> list[LoadSample]:
    async def run() -> list[LoadSample]:
        async with _server(handler, protocol) as target, open_client(target) as ask:
            return await run_load(load, ask, prompts(8))

    return asyncio.run(run())


def _streaming(tokens: int, *, chat: bool = False) -> Handler:
    """Return a handler that streams chunks 50 ms apart, the first after 100 ms."""

    def events(body: dict[str, object]) -> Iterator[dict[str, object]]:
        assert body["stream"]
        assert body["max_tokens"] == TOKENS
        yield {"choices": [{"delta": {"role": "assistant", "content": ""}} if chat else {"text": ""}]}
        for _ in range(tokens):
            yield {"choices": [{"delta": {"content": "x"}} if chat else {"text": "x"}]}
        yield {"choices": [], "usage": {"completion_tokens": tokens}}

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events(await request.json()):
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(0.1 if event["choices"] == [{"text": ""}] else 0.05)
        await response.write(b"data: [DONE]\n\n")
        return response

    return handle


def test_a_closed_loop_awaits_its_answers() -> None:
    samples = _run_load(_streaming(TOKENS), "completions", Load("closed", 2, 0.6))
    # An answer takes at least 0.35 s: each of two clients sends at most two requests, and pending ones are awaited.
    assert 2 <= len(samples) <= 4
    assert {sample.error for sample in samples} == {""}
    assert max(sample.ended_s for sample in samples) >= 0.6
    found = figures([samples], SLO)
    assert found.requests_per_s == pytest.approx(len(samples) / max(sample.ended_s for sample in samples))
    assert found.ttft_p50_s is not None
    assert found.latency_p50_s is not None
    # The first chunk with text comes after 0.1 s, then one every 0.05 s.
    assert 0.1 <= found.ttft_p50_s <= found.latency_p50_s - 0.2
    assert all(len(sample.gaps_s) == TOKENS - 1 for sample in samples)
    assert all(sum(sample.gaps_s) >= 0.1 for sample in samples)


def test_chat_answers_stream_too() -> None:
    (sample,) = _run_load(_streaming(TOKENS, chat=True), "chat", Load("closed", 1, 0.1))
    assert (sample.error, sample.tokens, len(sample.gaps_s)) == ("", TOKENS, TOKENS - 1)


def test_an_open_loop_does_not_wait_for_a_slow_server() -> None:
    alone = asyncio.Semaphore(1)

    async def handle(_request: web.Request) -> web.StreamResponse:
        async with alone:
            await asyncio.sleep(0.1)
        return web.json_response({"tokens": TOKENS})

    load = Load("open", 20, 1.0)
    samples = _run_load(handle, "predict", load)
    assert [sample.due_s for sample in samples] == pytest.approx(arrivals(20, 1.0, 0))
    # Twice the capacity: later requests wait longer, and their waiting counts.
    latencies = [sample.latency_s for sample in samples]
    assert latencies[-1] >= len(samples) * 0.1 - samples[-1].due_s
    assert figures([samples], SLO).requests_per_s < 10


def test_only_a_200_with_the_right_number_of_tokens_is_a_success() -> None:
    async def busy(_request: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=503)

    async def short(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"predictions": [{"tokens": TOKENS - 1}]})

    async def nonsense(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"predictions": []})

    load = Load("closed", 1, 0.05)
    assert _run_load(busy, "invocations", load)[0].error == "HTTP 503"
    assert _run_load(short, "invocations", load)[0].error == f"{TOKENS - 1} tokens"
    assert _run_load(nonsense, "invocations", load)[0].error == "IndexError"
    assert _run_load(_streaming(TOKENS + 1), "completions", load)[0].error == f"{TOKENS + 1} tokens"

    async def ask_closed_port() -> LoadAnswer:
        async with open_client(LoadTarget("http://127.0.0.1:9", "predict", "", TOKENS, 5.0)) as ask:
            return await ask("x")

    assert asyncio.run(ask_closed_port()).error == "ClientConnectorError"
