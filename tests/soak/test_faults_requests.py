"""Clients with harmful, slow or abandoned requests: each gets an error in time, and others are not affected."""

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load_file, save_file

from fledge.core.limits import Limits
from fledge.models import snapshot
from fledge.releases import release_cache
from fledge.releases.manifest import Manifest, write_release
from fledge.supervision.config import ServeConfig
from tests.serving.harness import GENERATION, NAME, TEMPLATE, until
from tests.serving.raw import JSON, Answer, ask, connect, post_json, read_load, request
from tests.soak.clients import CHAT, ConcurrentRequests, Outcome
from tests.soak.faults import (
    Running,
    check_records,
    finish,
    running,
)
from tests.soak.table import Figures, fault

TEXTS = "/v1/completions"
LONG: dict[str, Any] = {"prompt": ["go on"] * 40, "n": 4, "max_tokens": 200, "ignore_eos": True}
HALF_S = Limits(header_timeout_s=0.5, body_timeout_s=0.5, write_timeout_s=0.5)
TOP = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = TOP + b"Transfer-Encoding: chunked\r\n\r\n"
POISON_FROM = 200
GROWTH = 50_000_000


def _outcome(answer: Answer | None, began: float, *, left: bool = False) -> Outcome:
    assert answer is not None
    return Outcome(answer.headers["x-request-id"], answer.status, began, time.monotonic(), left=left)


def _seconds_until_idle(pid: int, most: float = 5.0) -> float:
    """Return the seconds until a process uses no processor time."""
    process, began = psutil.Process(pid), time.monotonic()
    while time.monotonic() < began + most:
        seen, before = time.monotonic(), process.cpu_times()
        time.sleep(0.2)
        after = process.cpu_times()
        if after.user + after.system - before.user - before.system < 0.03:
            return seen - began
    raise AssertionError("the process is still busy")


def _register_poisoned(config: ServeConfig) -> None:
    """Make the champion a model whose embeddings are NaN at positions that only a long prompt reaches."""
    model, folder = snapshot.resolve("embedded"), Path(config.state).parent / "poisoned"
    folder.mkdir()
    for name in model.files:
        (folder / name).write_bytes((model.path / name).read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.wpe.weight"][POISON_FROM:] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = snapshot.resolve(str(folder))
    manifest = Manifest(NAME, str(folder), "", found.digest, "plain", 1, TEMPLATE, GENERATION, version=1)
    where = config.state_dir / "releases" / f"{NAME}-1-poisoned"
    write_release(where, manifest, found, {})
    release_cache.remember(where.parent, config.tracking, release_cache.ReleaseRef(NAME, "champion", ""), where)


@fault(
    "7",
    "a poison request in a batch of 8 (the numbers of the model end at its position)",
    "500 for it alone; the other seven as ever",
)
def test_request_with_nan_logits_fails_alone(config: ServeConfig, times: int, figures: Figures) -> None:
    _register_poisoned(config)
    settings = {"max_tokens": 24, "ignore_eos": True}
    fine: list[dict[str, Any]] = [{"prompt": [number] * 5, **settings} for number in range(100, 800, 100)]
    poison = {"prompt": [100] * (POISON_FROM + 10), "temperature": 1.0, **settings}
    with running(config, engine="transformers") as started:
        outcomes = ConcurrentRequests(started.url, fine, TEXTS).outcomes()
        outcomes = ConcurrentRequests(started.url, fine, TEXTS).outcomes() + outcomes  # the first requests warm it up
        figures["s of the seven without it"].append(max(item.seconds for item in outcomes[:7]))
        expected = [json.loads(item.text)["choices"][0]["text"] for item in outcomes[:7]]
        for _ in range(times):
            ahead = ConcurrentRequests(started.url, [{"prompt": [7] * 5, "max_tokens": 150, "ignore_eos": True}], TEXTS)
            assert until(lambda: read_load(started.config.port).running == 1)
            began = time.monotonic()
            batch = ConcurrentRequests(started.url, [*fine, poison], TEXTS).outcomes()
            figures["s until the last of the seven"].append(max(item.ended for item in batch[:7]) - began)
            assert [item.status for item in batch] == [200] * 7 + [500]
            assert [json.loads(item.text)["choices"][0]["text"] for item in batch[:7]] == expected
            outcomes += ahead.outcomes() + batch
        assert until(lambda: started.log.count("engine failed") == times, 5.0)
        finish(started, outcomes)


def _read_request_id(opened: socket.socket) -> str:
    """Read the request id from the headers of a response."""
    return opened.recv(4096).decode().lower().partition("x-request-id: ")[2][:32]


def _hang_up(started: Running, count: int, *, stream: bool) -> list[Outcome]:
    """Disconnect clients while their answers are generated; only those that stream know their ids."""
    began, outcomes = time.monotonic(), []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            opened = stack.enter_context(connect(started.config.port))
            opened.sendall(post_json(TEXTS, {**LONG, "prompt": "go on", "stream": stream}))
            request_id = _read_request_id(opened) if stream else ""
            outcomes.append(Outcome(request_id, 499, began, time.monotonic(), left=True))
        assert until(lambda: read_load(started.config.port).running > 0, 5.0)
    return outcomes


@fault(
    "9",
    "8 clients hang up, half of them before the first token is told",
    "no work and no place is held 1 s later, the engine is idle, 8 others are answered",
)
def test_disconnected_clients_free_their_slots(config: ServeConfig, times: int, figures: Figures) -> None:
    with running(config, limits=Limits(max_running=8, queue_requests=0)) as started:
        outcomes: list[Outcome] = []
        for _ in range(times):
            outcomes += _hang_up(started, 4, stream=True) + _hang_up(started, 4, stream=False)
            began = time.monotonic()
            assert until(lambda: sum(read_load(started.config.port)) == 0, 5.0)
            figures["s until no work"].append(time.monotonic() - began)
            figures["s until the engine is idle"].append(_seconds_until_idle(started.pid("engine")))
            others = ConcurrentRequests(started.url, [{"prompt": "hello", "max_tokens": 4}] * 8, TEXTS).outcomes()
            assert [item.status for item in others] == [200] * 8
            outcomes += others
        finish(started, outcomes)
    assert max(figures["s until no work"]) < 1.0


@fault("10", "answers that take longer than `--deadline-s 2`", "ends in time with `length`, and the engine is idle")
def test_request_ends_at_its_deadline(config: ServeConfig, times: int, figures: Figures) -> None:
    with running(config, limits=Limits(deadline_s=2.0)) as started:
        outcomes: list[Outcome] = []
        for _ in range(times):
            late = ConcurrentRequests(started.url, [LONG, {**LONG, "stream": True}], TEXTS).outcomes()
            figures["s until told"] += [item.seconds for item in late]
            assert [(item.status, item.broken) for item in late] == [(200, False), (200, False)]
            figures["s until the engine is idle"].append(_seconds_until_idle(started.pid("engine")))
            outcomes += late
        finish(started, outcomes)
    assert 1.8 < min(figures["s until told"]) < max(figures["s until told"]) < 4.0


@fault("11", "headers and bodies that come too slowly (0.5 s for each)", "408 in time")
def test_slow_sender_gets_408(config: ServeConfig, times: int, figures: Figures) -> None:
    slow = {"headers": b"GET /health HTTP/1.1\r\nHost: local", "body": TOP + b"Content-Length: 1000\r\n\r\n{"}
    with running(config, engine="scripted", limits=HALF_S) as started:
        outcomes = []
        for _ in range(times):
            for what, sent in slow.items():
                began = time.monotonic()
                answer = ask(started.config.port, sent)
                assert answer is not None
                assert answer.status == 408
                figures[f"s for {what}"].append(time.monotonic() - began)
                if what == "body":
                    outcomes.append(_outcome(answer, began))
        finish(started, outcomes)
    assert max(max(values) for values in figures.values()) < 2.0


def _holds(started: Running, opened: socket.socket) -> bool:
    local_port = opened.getsockname()[1]
    connections = psutil.Process(started.pid("endpoint")).net_connections("tcp")
    return any(item.raddr and item.raddr.port == local_port for item in connections)


@fault(
    "12",
    "a client that never reads its answer of some megabytes (`--write-timeout-s 0.5`)",
    "hung up, nothing is computed any more",
)
def test_client_that_never_reads_is_disconnected(config: ServeConfig, times: int, figures: Figures) -> None:
    flood = {"prompt": [f"{'w' * 46} " * 4000] * 5, "max_tokens": 4096, "n": 8, "stream": True}
    # Records of some megabytes would fill files that are removed once shipped.
    with running(config, engine="scripted", limits=HALF_S, record_content="drop") as started:
        outcomes = []
        for _ in range(times):
            with connect(started.config.port, receive_buffer=4096) as opened:
                began = time.monotonic()
                opened.sendall(post_json(TEXTS, flood))
                assert until(lambda: _holds(started, opened), 5.0)
                assert until(lambda: not _holds(started, opened), 10.0)
                figures["s until hung up"].append(time.monotonic() - began)
                assert sum(read_load(started.config.port)) == 0
                outcomes.append(Outcome(_read_request_id(opened), 499, began, time.monotonic(), left=True))
        check_records(started, outcomes)


def _bombs() -> dict[str, bytes]:
    """Return requests that are too large, also after decoding."""
    zeros = gzip.compress(b"\0" * 20_000_000)
    return {
        "body": TOP + b"Content-Length: 5000000\r\n\r\n" + b" " * 5_000_000,
        "depth": request("POST", CHAT, JSON, body=b"[" * 900_000),
        "gzip": request("POST", CHAT, JSON, ("Content-Encoding", "gzip"), body=zeros),
        "chunks": CHUNKED + b"fffffff\r\n" + b" " * 5_000_000,
        "small chunks": CHUNKED + b"1\r\n \r\n" * 1_100_000,
    }


@contextlib.contextmanager
def _peak_of(pid: int) -> Iterator[list[int]]:
    """Measure the peak growth of a process in the block, in bytes."""
    about = Path(f"/proc/{pid}")
    (about / "clear_refs").write_text("5")  # reset the peak
    before, found = psutil.Process(pid).memory_info().rss, list[int]()
    yield found
    (line,) = [line for line in (about / "status").read_text().splitlines() if line.startswith("VmHWM")]
    found.append(1024 * int(line.split()[1]) - before)


@fault(
    "13",
    "bombs of body, depth, gzip and chunks, 4 of each at once",
    "413 or 400, or hung up; the endpoint grows by at most 50 MB",
)
def test_bombs_take_little_memory(config: ServeConfig, times: int, figures: Figures) -> None:
    bombs = [bomb for bomb in _bombs().values() for _ in range(4)]
    with running(config, engine="scripted") as started:
        outcomes: list[Outcome] = []

        def send(bomb: bytes) -> int:
            began = time.monotonic()
            answer = ask(started.config.port, bomb, seconds=30.0)
            # A client that is still sending may miss the response.
            outcomes.append(Outcome("", 0, began, time.monotonic()) if answer is None else _outcome(answer, began))
            return answer.status if answer else 0

        for _ in range(times):
            with _peak_of(started.pid("endpoint")) as peak, ThreadPoolExecutor(20) as pool:
                statuses = list(pool.map(send, bombs))
            assert set(statuses) <= {0, 400, 413}
            figures["MB more at most"].append(peak[0] / 1e6)
            figures["answered"].append(sum(map(bool, statuses)))
        finish(started, outcomes)
    assert max(figures["MB more at most"]) * 1e6 < GROWTH
