"""Limits on the size of requests, on slow clients and on clients that do not read, and reloading of limits."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from fledge.core.limits import Limits
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus
from tests.serving.harness import client, create_workspace, pids, served, until
from tests.serving.raw import JSON, ask, connect, is_closed, port_of, post_json, read_answer, read_load, request

pytestmark = pytest.mark.slow

WIRE = Limits(header_timeout_s=2.0, body_timeout_s=2.0, write_timeout_s=1.0)
CHAT = "/v1/chat/completions"
TOP = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = TOP + b"Transfer-Encoding: chunked\r\n\r\n"
MEMORY = 50_000_000


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> ServeConfig:
    return create_workspace(tmp_path_factory.mktemp("limits"), engine_cache)


@pytest.fixture(scope="module")
def wire(config: ServeConfig) -> Iterator[EndpointStatus]:
    """An endpoint with short timeouts; its engine answers immediately."""
    with served(config, engine="scripted", limits=WIRE) as running:
        yield running


def _post(endpoint: EndpointStatus, path: str, value: object) -> httpx.Response:
    with client(endpoint) as http:
        return http.post(path, json=value)


def _chat(content: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}], **more}


# Sizes


def test_oversized_body_is_refused_before_it_is_read(wire: EndpointStatus) -> None:
    for length in (1_000_001, 5_000_000, 10**12):
        answer = ask(port_of(wire.url), TOP + f"Content-Length: {length}\r\n\r\n{{".encode())
        assert answer is not None
        assert answer.status == 413
        assert "1000000 bytes" in json.loads(answer.body)["error"]["message"]
    largest = json.dumps(_chat("x" * 199_000)).encode()
    with client(wire) as http:
        body = largest + b" " * (1_000_000 - len(largest))
        assert http.post(CHAT, content=body, headers=[JSON]).status_code == 200
        assert http.post(CHAT, content=body + b" ", headers=[JSON]).status_code == 413
        assert http.get("/health").status_code == 200


def test_oversized_chunked_body_is_cut_off(wire: EndpointStatus) -> None:
    with connect(port_of(wire.url)) as opened:
        opened.sendall(CHUNKED)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                opened.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        with contextlib.suppress(ConnectionError):
            answer = read_answer(opened)
            assert answer is None or answer.status == 413
        assert is_closed(opened)
    with connect(port_of(wire.url)) as opened:
        opened.sendall(CHUNKED + b"f4241\r\n" + b" " * 1_000_001)
        answer = read_answer(opened)
        assert answer is None or (answer.status, answer.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "identity, gzip", "GZIP"])
def test_compressed_bodies_are_refused(wire: EndpointStatus, encoding: str) -> None:
    answer = ask(
        port_of(wire.url), request("POST", CHAT, JSON, ("Content-Encoding", encoding), body=b"\x1f\x8b" + b"\0" * 50)
    )
    assert answer is not None
    assert answer.status == 400
    assert "compressed" in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [33, 1000, 120_000])
def test_deeply_nested_json_is_refused(wire: EndpointStatus, opening: str, depth: int) -> None:
    with client(wire) as http:
        for path in (CHAT, "/v1/completions", "/invocations", "/feedback"):
            for body in (opening * depth, opening * depth + "1" + "]}"[opening == "["] * depth):
                refused = http.post(path, content=body, headers=[JSON])
                assert (refused.status_code, "deep" in refused.text or "not JSON" in refused.text) == (400, True)


def test_number_and_size_of_headers_are_limited(wire: EndpointStatus) -> None:
    port, host = port_of(wire.url), b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    assert (ok := ask(port, host + b"X: y\r\n" * 190 + b"\r\n")) is not None
    assert ok.status == 200
    huge = b"X: " + b"y" * 70_000 + b"\r\n"
    for wrong in (
        b"X: y\r\n" * 300 + b"\r\n",
        huge + b"\r\n",
        huge[:-2],
        b"Y" * 70_000,
        (b"X: " + b"y" * 7000 + b"\r\n") * 12,
    ):
        refused = ask(port, host + wrong)
        assert refused is not None, wrong[:20]
        assert refused.status == 431
    target = ask(port, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert target is not None
    assert target.status == 431


def test_trailers_and_chunk_extensions_are_limited(wire: EndpointStatus) -> None:
    for bomb in (b"0\r\nX: ", b"0\r\n", b"5;"):
        with connect(port_of(wire.url)) as opened:
            opened.sendall(CHUNKED + bomb)
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 20_000_000:
                    sent += opened.send(b"y" * 100_000 if len(bomb) != 3 else b"A: b\r\n" * 20_000)
            assert sent < 20_000_000
            assert is_closed(opened)


# Times


def test_idle_connection_and_partial_header_time_out(wire: EndpointStatus) -> None:
    for content, status in (
        (b"", None),
        (b"\r\n", None),
        (b"GET /hea", 408),
        (b"GET /health HTTP/1.1\r\nHost: local", 408),
    ):
        started = time.monotonic()
        answer = ask(port_of(wire.url), content)
        assert (answer.status if answer else None) == status
        assert time.monotonic() - started > 0.9 * WIRE.header_timeout_s


@pytest.mark.parametrize(
    ("begin", "drip", "status"),
    [
        (b"GET /health HTTP/1.1\r\nX: ", b"y", 408),
        (TOP + b"Content-Length: 1000\r\n\r\n", b" ", 408),
        (CHUNKED, b"1\r\n \r\n", 408),
        (TOP + b"Content-Length: 2000000\r\n\r\n", b" ", 413),
        (TOP + b"Content-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n", b" ", 400),
        (TOP.replace(b"localhost", b"evil.example") + b"Content-Length: 9000\r\n\r\n", b" ", 403),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n", 200),
    ],
)
def test_dripping_client_is_disconnected(wire: EndpointStatus, begin: bytes, drip: bytes, status: int) -> None:
    with connect(port_of(wire.url)) as opened:
        opened.sendall(begin)
        ended = threading.Event()

        def dripping() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.1):
                    opened.sendall(drip)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(dripping)
            answer = read_answer(opened)
            closed = is_closed(opened)
            ended.set()
        assert closed
        assert answer is None or answer.status == status  # a reset can overtake the response


def test_slow_body_within_the_timeout_is_accepted(wire: EndpointStatus) -> None:
    body = json.dumps(_chat("slow but there")).encode()
    with connect(port_of(wire.url)) as opened:
        opened.sendall(TOP + f"Content-Length: {len(body)}\r\n\r\n".encode())
        for part in (body[:10], body[10:20], body[20:]):
            time.sleep(0.08)
            opened.sendall(part)
        answer = read_answer(opened)
        assert answer is not None
        assert answer.status == 200


def _large_request(stream: bool) -> bytes:
    """Return a request for an answer of several megabytes."""
    text = f"{'w' * 46} " * 4000
    value = {"prompt": [text] * 5, "max_tokens": 4096, "n": 8, "stream": stream}
    return post_json("/v1/completions", value)


def _is_connected(endpoint: EndpointStatus, opened: socket.socket) -> bool:
    """Return whether the endpoint's process still has its end of a connection."""
    ours = opened.getsockname()[1]
    connections = psutil.Process(pids(endpoint)["endpoint"]).net_connections("tcp")
    return any(item.raddr and item.raddr.port == ours for item in connections)


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_never_reads_is_disconnected_and_its_work_stopped(wire: EndpointStatus, stream: bool) -> None:
    with connect(port_of(wire.url), receive_buffer=4096) as opened:
        opened.sendall(_large_request(stream))
        assert until(lambda: _is_connected(wire, opened))
        assert until(lambda: not _is_connected(wire, opened))
        assert sum(read_load(port_of(wire.url))) == 0


def test_client_that_never_reads_is_disconnected_with_tls(config: ServeConfig, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    trusting = ssl.create_default_context(cafile=str(cert))
    with served(config, engine="scripted", limits=WIRE, tls_cert=str(cert), tls_key=str(key)) as running:
        for stream in (True, False):
            with (
                connect(port_of(running.url), receive_buffer=4096) as opened,
                trusting.wrap_socket(opened, server_hostname="127.0.0.1") as secured,
            ):
                secured.sendall(_large_request(stream))
                assert until(lambda: _is_connected(running, secured))
                assert until(lambda: not _is_connected(running, secured))


def test_client_that_pipelines_and_never_reads_is_disconnected(wire: EndpointStatus) -> None:
    with connect(port_of(wire.url), receive_buffer=4096, seconds=1.0) as opened:
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(5000):
                opened.sendall(request("GET", "/openapi.json") * 4)
        assert until(lambda: not _is_connected(wire, opened))


def test_slow_reader_gets_the_whole_stream(wire: EndpointStatus) -> None:
    with connect(port_of(wire.url), receive_buffer=1 << 20) as opened:
        opened.sendall(_large_request(stream=True).replace(b" HTTP/1.1", b" HTTP/1.1\r\nConnection: close"))
        received, started = 0, time.monotonic()
        last = b""
        while part := opened.recv(1 << 20):
            received, last = received + len(part), (last + part)[-100:]
            if time.monotonic() - started < 3 * WIRE.write_timeout_s:
                time.sleep(0.2)
        assert time.monotonic() - started > 2 * WIRE.write_timeout_s
        assert received > 5_000_000
        assert b"data: [DONE]\n\n" in last


# Bombs


@contextlib.contextmanager
def _measure_growth(pid: int) -> Iterator[Callable[[], int]]:
    """Measure the largest memory growth of a process since the block began."""
    process, ended = psutil.Process(pid), threading.Event()
    before = process.memory_info().rss
    seen = [before]

    def watch() -> None:
        while not ended.wait(0.01):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: max(seen) - before
    finally:
        ended.set()
        watcher.join()


def _bombs() -> list[bytes]:
    mega = 1_000_000
    json_bombs = [
        b"[" * (mega - 1),
        b"[]," * 333_000,
        b'{"a":' * 190_000,
        b"[" + b"{}," * 333_000 + b"1]",
        b'"' + b"\\u0000" * 166_000,
    ]
    json_bombs += [
        b'{"messages":[' + b'{"role":"user","content":""},' * 34_000 + b"1]}",
        b'{"prompt":[' + b"1," * 499_000 + b"1]}",
    ]
    json_bombs += [b"{" + b",".join(b'"k%d":1' % number for number in range(90_000)) + b"}", b"9" * (mega - 1)]
    found = [request("POST", path, JSON, body=body[:mega]) for body in json_bombs for path in (CHAT, "/invocations")]
    found += [
        CHUNKED + b"1\r\n \r\n" * 300_000,
        CHUNKED + b"fffffff\r\n" + b" " * 3 * mega,
        CHUNKED + b"0\r\n" + b"A: b\r\n" * 300_000,
    ]
    found += [
        TOP + b"Content-Length: 99999999999\r\n\r\n" + b" " * 3 * mega,
        request("GET", "/health") * 20_000,
        b"\r\n" * mega,
    ]
    tables = (b"a," * 499_000, b"question\n" + b"x\n" * 490_000)
    found += [request("POST", "/invocations", ("Content-Type", "text/csv"), body=table) for table in tables]
    return found


def test_bombs_use_little_memory_and_leak_nothing(wire: EndpointStatus) -> None:
    pid = pids(wire)["endpoint"]
    process = psutil.Process(pid)
    descriptors = process.num_fds()

    def send(bomb: bytes) -> int:
        answer = ask(port_of(wire.url), bomb)
        return answer.status if answer else 0

    with _measure_growth(pid) as growth, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, _bombs() * 3))
        assert growth() < MEMORY
    assert set(statuses) <= {0, 200, 400, 404, 408, 413, 431}
    assert until(lambda: process.num_fds() <= descriptors)
    assert _post(wire, CHAT, _chat("still there?")).json()["choices"][0]["message"]["content"] == "STILL THERE?"


def test_hundreds_of_idle_connections_are_closed(wire: EndpointStatus) -> None:
    process = psutil.Process(pids(wire)["endpoint"])
    descriptors = process.num_fds()
    with contextlib.ExitStack() as stack, _measure_growth(process.pid) as growth:
        for _ in range(400):
            stack.enter_context(connect(port_of(wire.url)))
        assert _post(wire, CHAT, _chat("x")).status_code == 200
        assert until(lambda: process.num_fds() <= descriptors)
        assert growth() < MEMORY


# Reloading


def test_sighup_reloads_limits_except_those_given_at_the_start(
    config: ServeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "fledge.toml"
    with served(config, engine="scripted", limits=Limits(max_n=3)) as running:
        assert _post(running, CHAT, _chat("Why?", n=3, max_tokens=50)).status_code == 200
        settings.write_text("max_new_tokens = 40\nmax_n = 8\nmax_running = 2\nmax_json_depth = 4\n")
        os.kill(running.pid, signal.SIGHUP)
        assert until(lambda: _post(running, CHAT, _chat("Why?", max_tokens=50)).status_code == 400)
        assert _post(running, CHAT, _chat("Why?", max_tokens=40)).status_code == 200
        assert "at most 3" in _post(running, CHAT, _chat("Why?", n=4, max_tokens=4)).text
        assert "more than 4 deep" in _post(running, CHAT, _chat("Why?", other=[[[[1]]]])).text
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(lambda _: _post(running, CHAT, _chat("Why?", max_tokens=4)).status_code, range(16))
            assert list(answers) == [200] * 16
        text = Path(running.folder) / "log.txt"
        for bad, said in (("max_new_tokens = 'many'", "max-new-tokens"), ("max_running = 0", "from 1 to 256")):
            settings.write_text(f"{bad}\n")
            os.kill(running.pid, signal.SIGHUP)
            assert until(lambda: re.search(f"limits not reloaded.*{said}", text.read_text()) is not None)  # noqa: B023
        assert _post(running, CHAT, _chat("Why?", max_tokens=50)).status_code == 400
