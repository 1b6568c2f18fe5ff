"""Overload: requests beyond the queue are refused, those beyond the deadline end, and abandoned work is stopped."""

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fledge.core.limits import Limits
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus
from tests.serving.harness import client, create_workspace, pids, served, until
from tests.serving.raw import connect, port_of, post_json, read_answer, read_load, request

pytestmark = pytest.mark.slow

# On any machine, the long request takes longer than a test waits; stopping it takes less.
SOON_S = 30.0
LIMITS = Limits(max_running=2, queue_requests=2, queue_tokens=1_000_000, deadline_s=600.0)
BOUNDS = Limits(max_rows=100, max_n=4, max_new_tokens=200)
CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"prompt": ["go on"] * 800, "n": 4, "max_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> ServeConfig:
    return create_workspace(tmp_path_factory.mktemp("busy"), engine_cache)


@pytest.fixture(scope="module")
def busy(config: ServeConfig) -> Iterator[EndpointStatus]:
    """An endpoint with a slow engine and a short queue."""
    with served(config, limits=LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def bounded(config: ServeConfig) -> Iterator[EndpointStatus]:
    """An endpoint with low limits on a request."""
    with served(config, engine="scripted", limits=BOUNDS) as running:
        yield running


@contextlib.contextmanager
def _suspend_engine(endpoint: EndpointStatus) -> Iterator[None]:
    """Suspend the engine until the block ends."""
    engine = pids(endpoint)["engine"]
    os.kill(engine, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(engine, signal.SIGCONT)


def _post(endpoint: EndpointStatus, path: str, value: object) -> httpx.Response:
    with client(endpoint) as http:
        return http.post(path, json=value)


def _chat(content: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}], **more}


def _count_requests(endpoint: EndpointStatus) -> int:
    return sum(read_load(port_of(endpoint.url)))


def _is_idle(pid: int) -> bool:
    """Return whether a process is idle for a moment."""
    before = _cpu_seconds(pid)
    time.sleep(0.3)
    return _cpu_seconds(pid) - before < 0.05


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (CHAT, _chat("x", n=5)),
        (CHAT, _chat("x", max_tokens=201)),
        (CHAT, _chat("x", max_completion_tokens=201)),
        (CHAT, _chat("x", stop=["a", "b", "c", "d", "e"])),
        (CHAT, {"messages": [{"role": "user", "content": "x"}] * 1001}),
        ("/v1/completions", {"prompt": ["x"] * 101}),
        ("/v1/completions", {"prompt": "x", "n": 5}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 201}),
        ("/invocations", {"instances": ["x"] * 101}),
        ("/invocations", {"instances": ["x"], "params": {"max_tokens": 201}}),
        ("/invocations", {"inputs": {"question": ["x"] * 101}}),
    ],
)
def test_values_beyond_the_limits_are_refused(bounded: EndpointStatus, path: str, value: object) -> None:
    refused = _post(bounded, path, value)
    assert refused.status_code == 400
    assert re.search(r"\b(4|100|200|1000)\b", refused.text)


def test_values_at_the_limits_are_accepted(bounded: EndpointStatus) -> None:
    assert len(_post(bounded, CHAT, _chat("x", n=4, max_tokens=2)).json()["choices"]) == 4
    assert _post(bounded, CHAT, _chat("x", max_tokens=200)).status_code == 200
    rows = _post(bounded, "/invocations", {"instances": ["x"] * 100, "params": {"max_tokens": 1}})
    assert len(rows.json()["predictions"]) == 100


def _send(endpoint: EndpointStatus, stack: contextlib.ExitStack, content: bytes) -> socket.socket:
    opened = stack.enter_context(connect(port_of(endpoint.url)))
    opened.sendall(content)
    return opened


def test_full_queue_returns_429_and_running_requests_finish(busy: EndpointStatus) -> None:
    asked = post_json("/v1/completions", {**LONG, "prompt": ["go on"] * 3})
    with contextlib.ExitStack() as stack:
        with _suspend_engine(busy):
            running = [_send(busy, stack, asked) for _ in range(4)]
            assert until(lambda: _count_requests(busy) >= 4)
            refused = [read_answer(opened) for opened in [_send(busy, stack, asked) for _ in range(5)]]
        for answer in refused:
            assert answer is not None
            assert answer.status == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert json.loads(answer.body)["error"]["code"] == "rate_limit_exceeded"
        assert [answer and answer.status for answer in map(read_answer, running)] == [200] * 4
    assert _post(busy, "/v1/completions", {"prompt": "x"}).status_code == 200


def test_queue_is_limited_in_tokens(busy: EndpointStatus) -> None:
    with client(busy) as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as long:
        lines = long.iter_lines()  # keep a reference: the connection closes when it is collected
        assert next(lines).startswith("data: ")
        refused = http.post("/v1/completions", json=LONG)
        assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (429, True)
        assert re.search("tokens .* maximum of 1000000", refused.text)
        with client(busy) as other:
            assert other.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200
    assert until(lambda: _count_requests(busy) == 0, SOON_S)


def test_deadline_returns_504_and_stops_the_computation(config: ServeConfig) -> None:
    half = {**LONG, "prompt": LONG["prompt"][:400]}
    rows = {"instances": ["go on and on"] * 400, "params": {"max_tokens": 200, "ignore_eos": True}}
    limits = replace(LIMITS, deadline_s=6.0)
    with served(config, limits=limits) as short, contextlib.ExitStack() as stack:
        streamed = _send(short, stack, post_json("/v1/completions", {**half, "stream": True}))
        others = [
            _send(short, stack, post_json("/v1/completions", half)),
            _send(short, stack, post_json("/invocations", rows)),
        ]
        late = [read_answer(opened) for opened in others]
        broken = read_answer(streamed)
        assert [answer and answer.status for answer in late] == [504, 504]
        assert all(answer and b"6 s" in answer.body for answer in late)
        assert broken is not None
        events = [line.removeprefix("data: ") for line in broken.body.decode().splitlines() if line]
        assert len(events) > 1
        assert "6 s" in json.loads(events[-1])["error"]["message"]
        assert until(lambda: _count_requests(short) == 0, SOON_S)
        assert until(lambda: _is_idle(pids(short)["engine"]), SOON_S)


def test_deadline_ends_an_answer_with_what_there_is(config: ServeConfig) -> None:
    many = {"prompt": ["go on"] * 16, "n": 4, "max_tokens": 480, "ignore_eos": True}
    with served(config, limits=replace(LIMITS, deadline_s=1.0, max_running=64)) as short, client(short) as http:
        whole = http.post("/v1/completions", json=many)
        assert whole.status_code == 200
        assert re.fullmatch(r"\d+ answers cut at the deadline", whole.headers["x-fledge-warning"])
        assert {choice["finish_reason"] for choice in whole.json()["choices"]} == {"length"}
        assert 0 < whole.json()["usage"]["completion_tokens"] < 64 * 480
        events = http.post("/v1/completions", json={**many, "stream": True}).text.split()
        assert events[-1] == "[DONE]"
        assert json.loads(events[-3])["choices"][0]["finish_reason"] == "length"
        assert until(lambda: _is_idle(pids(short)["engine"]), SOON_S)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("ahead", [b"", request("GET", "/health")])
def test_disconnect_stops_the_computation(busy: EndpointStatus, stream: bool, ahead: bytes) -> None:
    engine = pids(busy)["engine"]
    before = _cpu_seconds(engine)
    with connect(port_of(busy.url)) as opened:
        opened.sendall(post_json("/v1/completions", {**LONG, "stream": stream}) + ahead)
        assert until(lambda: read_load(port_of(busy.url)).running == 2, SOON_S)
        if stream:
            assert opened.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert until(lambda: _cpu_seconds(engine) - before > 0.05, SOON_S)
    assert until(lambda: _count_requests(busy) == 0, SOON_S)
    assert until(lambda: _is_idle(engine), SOON_S)
    assert _post(busy, CHAT, _chat("still there?")).status_code == 200
