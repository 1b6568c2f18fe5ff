"""Records of a running endpoint: one for each request, with its id and status, despite errors of clients, disk and
process."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fledge.core.limits import Limits
from fledge.core.outbox_files import outbox_files
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus, stop
from tests.serving.harness import client, create_workspace, free_port, metrics, outbox, pids, served, until
from tests.serving.parquet_files import write_parquet
from tests.serving.raw import JSON, connect, port_of, post_json, read_answer, read_load, request

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"prompt": ["go on"] * 400, "n": 4, "max_tokens": 200, "ignore_eos": True}
# The long request cannot meet the deadline, the short ones always do.
LIMITS = Limits(max_running=1, queue_requests=0, deadline_s=10.0, body_timeout_s=2.0, max_body_bytes=100_000)
ADDRESS = "me@example.org"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> ServeConfig:
    return replace(create_workspace(tmp_path_factory.mktemp("outbox"), engine_cache), record=True)


@pytest.fixture(scope="module")
def endpoint(config: ServeConfig) -> Iterator[EndpointStatus]:
    """An endpoint with tight limits, so that every outcome can be provoked."""
    with served(config, limits=LIMITS) as running:
        yield running


def _raw(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in outbox_files(folder))


def _outcomes(endpoint: EndpointStatus) -> Counter[tuple[str, int]]:
    return Counter((record.request_id, record.status) for record in outbox(endpoint))


def _hang_up(endpoint: EndpointStatus) -> str:
    """Leave a stream after its first bytes; return its request id."""
    with connect(port_of(endpoint.url)) as opened:
        opened.sendall(post_json("/v1/completions", {**LONG, "stream": True}))
        head = opened.recv(4096).decode()
        return head.lower().partition("x-request-id: ")[2][:32]


def _broken_stream(endpoint: EndpointStatus) -> tuple[str, int]:
    """Kill the engine of a stream; return the request id and status."""
    with client(endpoint) as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as streamed:
        lines = streamed.iter_lines()
        next(lines)
        os.kill(pids(endpoint)["engine"], signal.SIGKILL)
        events = [line.removeprefix("data: ") for line in lines if line]
    assert "stopped" in json.loads(events[-1])["error"]["message"]
    return streamed.headers["x-request-id"], 503


def test_every_outcome_leaves_one_record_with_its_request_id(endpoint: EndpointStatus) -> None:
    before = _outcomes(endpoint)
    good = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    seen: list[tuple[str, int]] = []

    def post(path: str, expected: int, **how: Any) -> None:
        with client(endpoint) as http:
            answer = http.post(path, **how)
        assert answer.status_code == expected, (path, answer.text)
        seen.append((answer.headers["x-request-id"], expected))

    for path, body in (
        (CHAT, good),
        ("/v1/completions", {"prompt": "x", "max_tokens": 4}),
        ("/invocations", {"instances": ["x"], "params": {"max_tokens": 4}}),
    ):
        post(path, 200, json=body)
        post(path, 400, json={})
        post(path, 400, content=b"{", headers=[JSON])
        post(path, 413, content=b" " * 100_001, headers=[JSON])
        post(path, 400, content=b"{}", headers=[JSON, ("content-encoding", "gzip")])
        post(path, 415, content=b"x", headers={"content-type": "text/plain"})
    post(CHAT, 200, json={**good, "stream": True})
    post(CHAT, 404, json={**good, "model": "nobody"})
    post("/v1/completions", 504, json=LONG)
    with client(endpoint) as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as long:
        lines = long.iter_lines()  # keep a reference: the connection closes when it is collected
        next(lines)
        os.kill(pids(endpoint)["engine"], signal.SIGSTOP)  # the stream cannot end before the next request is refused
        try:
            post(CHAT, 429, json=good)
        finally:
            os.kill(pids(endpoint)["engine"], signal.SIGCONT)
        seen.append((long.headers["x-request-id"], 499))
    assert until(lambda: sum(read_load(port_of(endpoint.url))) == 0)
    seen.append((_hang_up(endpoint), 499))
    assert until(lambda: sum(read_load(port_of(endpoint.url))) == 0)
    with connect(port_of(endpoint.url)) as opened:
        opened.sendall(request("POST", CHAT, JSON, body=b"x" * 50)[:-10])
        late = read_answer(opened)
        assert late is not None
        seen.append((late.headers["x-request-id"], 408))
    seen.append(_broken_stream(endpoint))
    expected = Counter(seen)
    assert len(expected) == len(seen) == 26
    assert until(lambda: _outcomes(endpoint) - before == expected), expected - _outcomes(endpoint)
    assert until(lambda: _is_ready(endpoint))


def test_incomplete_and_abandoned_requests_are_recorded_as_499(endpoint: EndpointStatus) -> None:
    before = _outcomes(endpoint)
    with connect(port_of(endpoint.url)) as opened:
        opened.sendall(request("POST", CHAT, JSON, body=b"x" * 50)[:-10])
        time.sleep(0.1)
    with connect(port_of(endpoint.url)) as opened:
        opened.sendall(post_json("/v1/completions", LONG))
        assert until(lambda: read_load(port_of(endpoint.url)).running == 1)
    assert until(lambda: sum((_outcomes(endpoint) - before).values()) == 2)
    time.sleep(LIMITS.body_timeout_s + 0.1)
    assert sorted(status for _, status in _outcomes(endpoint) - before) == [499, 499]


def test_drain_timeout_fails_running_and_waiting_requests(config: ServeConfig) -> None:
    limits = replace(LIMITS, queue_requests=100, queue_tokens=10_000_000, deadline_s=600.0, drain_s=0.5)
    with served(config, limits=limits) as endpoint, ThreadPoolExecutor(8) as pool, client(endpoint) as http:
        asked = [pool.submit(http.post, "/v1/completions", json={**LONG, "stream": i % 2 > 0}) for i in range(8)]
        assert until(lambda: sum(read_load(port_of(endpoint.url))) == 8)
        stop(port_of(endpoint.url), workspace=config)
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} <= {200, 503}
    for answer in answers:
        said = answer.text.strip().splitlines()[-1].removeprefix("data: ")
        assert "the endpoint was stopped" in json.loads(said)["error"]["message"]
    outcomes = Counter((record.request_id, record.status) for record in outbox(endpoint))
    assert outcomes == Counter((answer.headers["x-request-id"], 503) for answer in answers)


def test_stop_waits_for_tables_and_refuses_incomplete_requests(config: ServeConfig) -> None:
    table = write_parquet({"question": ["row"] * 3})
    about = {"content-type": "application/vnd.apache.parquet"}
    limits = Limits(body_timeout_s=600.0, drain_s=300.0)
    with (
        served(config, engine="scripted", limits=limits) as endpoint,
        ThreadPoolExecutor(8) as pool,
        client(endpoint) as http,
        connect(port_of(endpoint.url)) as sender,
    ):
        sender.sendall(request("POST", CHAT, JSON, body=b"x" * 50)[:-10])
        asked = [pool.submit(http.post, "/invocations", content=table, headers=about) for _ in range(6)]
        reading = psutil.Process(pids(endpoint)["endpoint"])  # each table is read in its own process
        assert until(lambda: len(reading.children()) + sum(one.done() for one in asked) >= len(asked))
        stop(port_of(endpoint.url), workspace=config)
        assert [one.result().status_code for one in asked] == [200] * 6
        late = read_answer(sender)
    assert late is not None
    assert late.status == 503
    assert "stopping" in json.loads(late.body)["error"]["message"]
    expected = Counter({(late.headers["x-request-id"], 503): 1})
    expected += Counter((one.result().headers["x-request-id"], 200) for one in asked)
    assert _outcomes(endpoint) == expected


def test_feedback_on_a_stream_follows_its_record(config: ServeConfig) -> None:
    with served(config) as endpoint, client(endpoint) as http:
        with http.stream("POST", "/v1/completions", json={**LONG, "prompt": "go on", "stream": True}) as streamed:
            next(streamed.iter_lines())
            identity = streamed.headers["x-request-id"]
            given = http.post("/feedback", json={"request_id": identity, "value": False}).json()["feedback_id"]
        raw = Path(endpoint.folder) / "outbox"
        assert until(lambda: given in _raw(raw))
        lines = _raw(raw).splitlines()
        assert [identity in line for line in lines] == [True, True]
        assert given in lines[1]


def test_requests_without_generation_leave_no_record(endpoint: EndpointStatus) -> None:
    before = _outcomes(endpoint)
    with client(endpoint) as http:
        for method, path in (
            ("GET", CHAT),
            ("DELETE", "/invocations"),
            ("POST", "/nowhere"),
            ("GET", "/metrics"),
            ("HEAD", "/ready"),
        ):
            http.request(method, path)
        answered = http.post(CHAT, json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}).headers[
            "x-request-id"
        ]
        given = {"request_id": answered, "value": "good", "comment": "short"}
        feedback = http.post("/feedback", json=given).json()
    assert until(lambda: feedback["feedback_id"] in _raw(Path(endpoint.folder) / "outbox"))
    assert _outcomes(endpoint) - before == Counter([(answered, 200)])


def test_killed_endpoint_keeps_each_written_record_once(endpoint: EndpointStatus) -> None:
    def ask(http: httpx.Client) -> str:
        answer = http.post(CHAT, json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 2})
        return answer.headers["x-request-id"]

    with client(endpoint) as http:
        written = [ask(http) for _ in range(5)]
        assert until(lambda: all((identity, 200) in _outcomes(endpoint) for identity in written))
        for _ in range(5):  # some of them are still in memory
            ask(http)
    os.kill(pids(endpoint)["endpoint"], signal.SIGKILL)
    assert until(lambda: _is_ready(endpoint))
    with client(endpoint) as http:
        after = ask(http)
    assert until(lambda: (after, 200) in _outcomes(endpoint))
    found = _outcomes(endpoint)
    assert max(found.values()) == 1
    assert not [identity for identity in written if (identity, 200) not in found]


def _is_ready(endpoint: EndpointStatus) -> bool:
    with client(endpoint) as http, contextlib.suppress(httpx.HTTPError):
        return http.get("/ready").status_code == 200
    return False


RULES = """
def shout(text):
    if "boom" in text.lower():
        raise RuntimeError(text)
    return text.replace("quiet", "LOUD").replace("QUIET", "LOUD")
"""


def test_custom_redaction_rules_and_outbox_cap_of_an_endpoint(
    config: ServeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_rules.py").write_text(RULES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    rules = ("email", "our_rules:shout", "regex:(a|aa)+$")
    with served(config, engine="scripted", redact=rules, outbox_mb=1) as running, client(running) as http:

        def say(text: str) -> str:
            answer = http.post(CHAT, json={"messages": [{"role": "user", "content": text}]})
            assert answer.json()["choices"][0]["message"]["content"] == text.upper()
            return answer.headers["x-request-id"]

        clean, failed, hung = say(f"quiet {ADDRESS}"), say("boom secret words"), say("a" * 100 + "b")
        assert until(lambda: len(outbox(running)) == 3)
        records = {record.request_id: record for record in outbox(running)}
        assert records[clean].inputs == {"messages": [{"role": "user", "content": "LOUD [email]"}]}
        for identity in (failed, hung):
            assert (records[identity].inputs, records[identity].status) == ("[dropped]", 200)
            assert records[identity].answers[0].completion_tokens > 0
        raw = _raw(Path(running.folder) / "outbox").lower()
        assert not [word for word in (ADDRESS, "secret words", "aaaa", "quiet") if word in raw]
        for _ in range(12):
            say("x" * 50_000 + " y")
            time.sleep(0.1)
        assert until(lambda: metrics(running, "fledge_outbox_dropped_total") > 0)
        assert until(
            lambda: (
                metrics(running, "fledge_outbox_written_total") + metrics(running, "fledge_outbox_dropped_total") == 15
            )
        )
        assert len(outbox(running)) == metrics(running, "fledge_outbox_written_total")


@pytest.fixture
def small_disk(config: ServeConfig) -> Iterator[tuple[ServeConfig, Path]]:
    """A configuration whose outbox is on its own disk of 256 kB."""
    port = free_port()
    folder = Path(config.state) / "endpoints" / str(port) / "outbox"
    folder.mkdir(parents=True, mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs permission to mount a small disk")
    try:
        yield replace(config, port=port), folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_full_disk_neither_stops_serving_nor_tears_lines(small_disk: tuple[ServeConfig, Path]) -> None:
    config, folder = small_disk
    filler = folder / "somebody's file"
    with served(config, engine="scripted", port=config.port) as running, client(running) as http:
        ids = []

        def say(text: str) -> None:
            answer = http.post(CHAT, json={"messages": [{"role": "user", "content": text}]})
            assert answer.status_code == 200
            ids.append(answer.headers["x-request-id"])

        say("before")
        assert until(lambda: len(outbox(running)) == 1)
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        for number in range(30):
            say(f"while it is full {number} " + "x" * 2000)
            time.sleep(0.05)
        log = Path(running.folder) / "log.txt"
        assert until(lambda: "No space left" in log.read_text(encoding="utf-8"))
        content = _raw(folder)
        assert content.endswith("\n")
        assert [json.loads(line)["request_id"] for line in content.splitlines()] == ids[: content.count("\n")]
        assert content.count("\n") < 31
        filler.unlink()
        say("after")
        assert until(lambda: {record.request_id for record in outbox(running)} == {*ids})
        assert metrics(running, "fledge_outbox_written_total") == 32
        assert metrics(running, "fledge_outbox_dropped_total") == 0
