"""The outbox: one record for each request with the client's id and status, whatever happens to the request, the disk or
the process; and in it no text that was not to be kept."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from fledge.core.limits import Content, Limits
from fledge.core.messages import Answered, FeedbackRecord, OutboxRecord
from fledge.monitoring.outbox_reader import Position, outbox_files, read_batch, read_outbox
from fledge.serving import outbox as outbox_module
from fledge.serving.outbox import Outbox
from fledge.serving.redaction import make_redactor
from fledge.supervision.endpoints import EndpointStatus, ServeConfig
from tests.serving.harness import client, free_port, lay_out, metrics, outbox, pids, served, until
from tests.serving.raw import connected, next_answer, request

CHAT = "/v1/chat/completions"
JSON = ("Content-Type", "application/json")
LONG: dict[str, Any] = {"prompt": ["go on"] * 60, "n": 4, "max_tokens": 200, "ignore_eos": True}
LIMITS = Limits(max_running=1, queue_requests=0, deadline_s=1.5, body_timeout_s=0.5, max_body_bytes=100_000)
SECRETS = ("me@example.org", "4111 1111 1111 1111")
TEXT = f"I am {SECRETS[0]}, my card is {SECRETS[1]}."


def _record(number: int = 0, text: str = TEXT) -> OutboxRecord:
    identity = f"{number:032x}"
    answer = Answered(f"user: {text}", text.upper(), 1, 2, 3, 4, 5, "stop")
    return OutboxRecord(
        f"tr-{identity}",
        identity,
        "chat",
        200,
        10,
        20,
        "mine",
        1,
        "champion",
        "simple/1",
        {"messages": [text]},
        [answer],
        text,
    )


def _box(folder: Path, *rules: str, content: Content = "keep", cap_bytes: int = 10**9) -> Outbox:
    return Outbox(folder, cap_bytes=cap_bytes, content=content, redact=make_redactor(rules))


def _run(box: Outbox, work: Callable[[], Any], seconds: float = 0.0) -> None:
    """Have an outbox write while `work` is done, and so many seconds longer."""

    async def both() -> None:
        writing = asyncio.create_task(box.run())
        await asyncio.sleep(0)
        if asyncio.iscoroutine(working := work()):
            await working
        await asyncio.sleep(seconds)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(both())


def _raw(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in outbox_files(folder))


# The file


def test_what_was_put_is_read_back_as_it_was(tmp_path: Path) -> None:
    box, records = _box(tmp_path), [_record(number, "schön \u2028 \0 \U0001f600\n") for number in range(50)]
    _run(box, lambda: [box.put(record) for record in records])
    assert read_outbox(tmp_path) == records
    assert (box.written, box.dropped) == (50, 0)
    assert [path.stat().st_mode & 0o777 for path in outbox_files(tmp_path)] == [0o600]


@pytest.mark.parametrize("content", ["keep", "hash", "drop"])
def test_texts_are_kept_hashed_or_dropped_and_the_rest_stays(tmp_path: Path, content: Content) -> None:
    box = _box(tmp_path, content=content)
    feedback = FeedbackRecord("f" * 32, "0" * 32, "good", TEXT, TEXT, TEXT, 7)
    _run(box, lambda: [box.put(_record()), box.put(feedback), box.put(replace(feedback, value=0.5))])
    raw = _raw(tmp_path)
    assert any(secret in raw for secret in SECRETS) == (content == "keep")
    assert ("sha256:" in raw) == (content == "hash")
    (record,) = read_outbox(tmp_path)
    kept = replace(record, inputs=None, error="", answers=[replace(record.answers[0], prompt_text="", output="")])
    assert kept == replace(_record(), inputs=None, error="", answers=[Answered("", "", 1, 2, 3, 4, 5, "stop")])
    values = [json.loads(line) for line in raw.splitlines() if "feedback_id" in line]
    assert [value["name"] for value in values] == ["good", "good"]
    assert values[1]["value"] == 0.5


def test_the_same_text_has_the_same_hash_and_another_has_another(tmp_path: Path) -> None:
    box = _box(tmp_path, content="hash")
    _run(box, lambda: [box.put(_record(0, "one")), box.put(_record(1, "one")), box.put(_record(2, "two"))])
    outputs = [record.answers[0].output for record in read_outbox(tmp_path)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_texts_are_redacted_before_they_reach_the_disk(tmp_path: Path) -> None:
    box = _box(tmp_path, "email", "card")
    feedback = FeedbackRecord("f" * 32, "0" * 32, "why", TEXT, TEXT, TEXT, 7)
    _run(box, lambda: [box.put(_record()), box.put(feedback)])
    raw = _raw(tmp_path)
    assert not [secret for secret in SECRETS if secret in raw or secret.upper() in raw]
    (record,) = read_outbox(tmp_path)
    assert record.inputs == {"messages": ["I am [email], my card is [card]."]}
    assert record.answers[0].completion_tokens == 5


@pytest.mark.parametrize(
    "rule", ["regex:(a|aa)+$", "tests.serving.test_outbox:broken_rule", "tests.serving.test_outbox:surrogates"]
)
def test_a_rule_that_fails_drops_the_text_and_keeps_the_timings(tmp_path: Path, rule: str) -> None:
    box = _box(tmp_path, rule)
    text = "a" * 100 + "b"
    _run(box, lambda: box.put(_record(1, text)))
    assert "aaa" not in _raw(tmp_path).lower()
    (record,) = read_outbox(tmp_path)
    assert (record.request_id, record.status, record.answers[0].ended_ns) == (f"{1:032x}", 200, 3)
    assert (record.inputs, record.answers[0].output, record.error) == ("[dropped]",) * 3


def broken_rule(text: str) -> str:
    raise ValueError(text)


def surrogates(_text: str) -> str:
    return "\ud800"


def slow_rule(text: str) -> str:
    time.sleep(0.2)
    return text


def test_a_slow_rule_holds_no_request_up(tmp_path: Path) -> None:
    box = _box(tmp_path, "tests.serving.test_outbox:slow_rule")
    longest = 0.0

    async def requests() -> None:
        nonlocal longest
        for number in range(100):
            started = time.perf_counter()
            box.put(_record(number % 2))
            await asyncio.sleep(0.01)
            longest = max(longest, time.perf_counter() - started)
            if number == 1:
                box.put = lambda _record: None  # type: ignore[method-assign,assignment]

    _run(box, requests)
    assert longest < 0.15
    assert len(read_outbox(tmp_path)) == 2


def test_files_are_rotated_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "ROTATE_BYTES", 3000)
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.005)
    box = _box(tmp_path)

    async def steadily() -> None:
        for number in range(400):
            box.put(_record(number))
            await asyncio.sleep(0.002)

    _run(box, steadily)
    assert len(outbox_files(tmp_path)) > 5
    assert outbox_files(tmp_path)[0].name == "outbox-000001.jsonl"
    read, position = [], Position()
    while (batch := read_batch(tmp_path, position, 7)).next != position:
        read += [record for record in batch.records if isinstance(record, OutboxRecord)]
        position = batch.next
    assert [int(record.request_id, 16) for record in read] == [*range(400)]


def test_a_new_outbox_begins_a_new_file_whatever_lies_there(tmp_path: Path) -> None:
    (tmp_path / "outbox-000007.jsonl").write_bytes(b'{"trace_id": "torn')
    (tmp_path / "outbox-old.jsonl").write_bytes(b"")
    box = _box(tmp_path)
    _run(box, lambda: box.put(_record()))
    assert (tmp_path / "outbox-000008.jsonl").stat().st_size > 100
    assert read_outbox(tmp_path) == [_record()]
    position, found = Position(), []
    while (batch := read_batch(tmp_path, position, 100)).next != position:
        found, position = found + batch.records, batch.next
    assert found == [_record()]


def test_beyond_its_cap_records_are_dropped_and_counted(tmp_path: Path) -> None:
    box = _box(tmp_path, cap_bytes=5000)
    for start in (0, 50):
        _run(box, lambda: [box.put(_record(start + number)) for number in range(50)])  # noqa: B023 (done at once)
    assert (box.written, box.dropped) == (50, 50)
    assert len(read_outbox(tmp_path)) == 50


def test_what_waits_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "WAITING_BYTES", 10_000)
    box = _box(tmp_path)
    _run(box, lambda: [box.put(_record(number)) for number in range(1000)])
    assert 5 < box.written < 50
    assert box.written + box.dropped == 1000
    assert len(read_outbox(tmp_path)) == box.written


@contextlib.contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """As a disk that gets full in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way_is_undone_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.02)
    box = _box(tmp_path)

    async def fill_and_free() -> None:
        box.put(_record(0))
        await asyncio.sleep(0.1)
        (file,) = outbox_files(tmp_path)
        with _files_of_at_most(file.stat().st_size + 100):
            for number in range(1, 20):
                box.put(_record(number))
                await asyncio.sleep(0.01)
            assert _raw(tmp_path).endswith("\n")
            assert len(read_outbox(tmp_path)) == 1
        box.put(_record(20))

    _run(box, fill_and_free, 0.2)
    assert [int(record.request_id, 16) for record in read_outbox(tmp_path)] == [*range(21)]
    assert (box.written, box.dropped) == (21, 0)
    assert capsys.readouterr().err.count("the outbox cannot be written") == 1


def test_ended_while_it_writes_it_leaves_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.001)
    for attempt in range(20):
        box = _box(tmp_path / str(attempt))

        async def hurriedly() -> None:
            for number in range(30):
                box.put(_record(number))  # noqa: B023 (done at once)
                await asyncio.sleep(0.0005)

        _run(box, hurriedly)
        assert [int(record.request_id, 16) for record in read_outbox(tmp_path / str(attempt))] == [*range(30)]


# A running endpoint


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> ServeConfig:
    return replace(lay_out(tmp_path_factory.mktemp("outbox"), engine_cache), record=True)


@pytest.fixture(scope="module")
def endpoint(config: ServeConfig) -> Iterator[EndpointStatus]:
    """With little room and time, so that every outcome can be had."""
    with served(config, limits=LIMITS) as running:
        yield running


def _port(endpoint: EndpointStatus) -> int:
    return int(endpoint.url.rpartition(":")[2])


def _outcomes(endpoint: EndpointStatus) -> Counter[tuple[str, int]]:
    return Counter((record.request_id, record.status) for record in outbox(endpoint))


def _hang_up(endpoint: EndpointStatus) -> str:
    """Leave a stream after its first bytes; the id that it had."""
    body = json.dumps({**LONG, "stream": True}).encode()
    with connected(_port(endpoint)) as opened:
        opened.sendall(request("POST", "/v1/completions", JSON, body=body))
        head = opened.recv(4096).decode()
        return head.lower().partition("x-request-id: ")[2][:32]


def _broken_stream(endpoint: EndpointStatus) -> tuple[str, int]:
    """A stream whose engine is killed."""
    with client(endpoint) as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as streamed:
        lines = streamed.iter_lines()
        next(lines)
        os.kill(pids(endpoint)["engine"], signal.SIGKILL)
        events = [line.removeprefix("data: ") for line in lines if line]
    assert "stopped" in json.loads(events[-1])["error"]["message"]
    return streamed.headers["x-request-id"], 503


@pytest.mark.slow
def test_every_outcome_leaves_one_record_with_the_clients_id(endpoint: EndpointStatus) -> None:
    before = _outcomes(endpoint)
    good = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    seen: list[tuple[str, int]] = []

    def post(path: str, expected: int, **how: Any) -> None:
        with client(endpoint) as http:
            answer = http.post(path, **how)
        assert answer.status_code == expected, (path, answer.text)
        seen.append((answer.headers["x-request-id"], expected))

    for path, body in ((CHAT, good), ("/v1/completions", {"prompt": "x"}), ("/invocations", {"instances": ["x"]})):
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
        lines = long.iter_lines()  # which hangs up when it is thrown away
        next(lines)
        post(CHAT, 429, json=good)
        seen.append((long.headers["x-request-id"], 499))
    assert until(lambda: metrics(endpoint, "fledge_num_requests_running") == 0, 3.0)
    seen.append((_hang_up(endpoint), 499))
    with connected(_port(endpoint)) as opened:
        opened.sendall(request("POST", CHAT, JSON, body=b"x" * 50)[:-10])
        late = next_answer(opened)
        assert late is not None
        seen.append((late.headers["x-request-id"], 408))
    seen.append(_broken_stream(endpoint))
    wanted = Counter(seen)
    assert len(wanted) == len(seen) == 26
    assert until(lambda: _outcomes(endpoint) - before == wanted, 10.0), (_outcomes(endpoint) - before) ^ wanted
    assert until(lambda: _is_up(endpoint))


@pytest.mark.slow
def test_a_request_that_was_never_whole_and_one_left_before_its_answer_are_499(endpoint: EndpointStatus) -> None:
    before = _outcomes(endpoint)
    with connected(_port(endpoint)) as opened:
        opened.sendall(request("POST", CHAT, JSON, body=b"x" * 50)[:-10])
        time.sleep(0.1)
    with connected(_port(endpoint)) as opened:
        opened.sendall(request("POST", "/v1/completions", JSON, body=json.dumps(LONG).encode()))
        assert until(lambda: metrics(endpoint, "fledge_num_requests_running") == 1, 3.0)
    assert until(lambda: sum((_outcomes(endpoint) - before).values()) == 2, 5.0)
    time.sleep(0.6)
    assert sorted(status for _, status in _outcomes(endpoint) - before) == [499, 499]


@pytest.mark.slow
def test_what_is_no_question_leaves_no_record(endpoint: EndpointStatus) -> None:
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
    assert until(lambda: feedback["feedback_id"] in _raw(Path(endpoint.folder) / "outbox"), 5.0)
    assert _outcomes(endpoint) - before == Counter([(answered, 200)])


@pytest.mark.slow
def test_a_killed_endpoint_loses_no_line_but_those_of_the_last_second(endpoint: EndpointStatus) -> None:
    ids: list[tuple[float, str]] = []
    with client(endpoint) as http, contextlib.suppress(httpx.HTTPError):
        until_then = time.monotonic() + 2.5
        killed = False
        while True:
            answer = http.post(CHAT, json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 2})
            ids.append((time.monotonic(), answer.headers["x-request-id"]))
            if time.monotonic() > until_then and not killed:
                os.kill(pids(endpoint)["endpoint"], signal.SIGKILL)
                killed = True
    died = ids[-1][0]
    assert until(lambda: _is_up(endpoint))
    with client(endpoint) as http:
        after = http.post(CHAT, json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}).headers[
            "x-request-id"
        ]
    assert until(lambda: (after, 200) in _outcomes(endpoint), 5.0)
    found = _outcomes(endpoint)
    assert max(found.values()) == 1
    assert not [identity for moment, identity in ids if moment < died - 1.1 and (identity, 200) not in found]
    assert len([1 for moment, _ in ids if moment < died - 1.1]) > 20
    files = outbox_files(Path(endpoint.folder) / "outbox")
    assert sum(len(path.read_bytes().splitlines()) for path in files) >= len(outbox(endpoint))


def _is_up(endpoint: EndpointStatus) -> bool:
    with client(endpoint) as http, contextlib.suppress(httpx.HTTPError):
        return http.get("/ready").status_code == 200
    return False


RULES = """
def shout(text):
    if "boom" in text.lower():
        raise RuntimeError(text)
    return text.replace("quiet", "LOUD").replace("QUIET", "LOUD")
"""


@pytest.mark.slow
def test_a_users_rules_and_the_cap_on_a_running_endpoint(
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

        clean, failed, hung = say(f"quiet {SECRETS[0]}"), say("boom secret words"), say("a" * 100 + "b")
        assert until(lambda: len(outbox(running)) == 3, 15.0)
        records = {record.request_id: record for record in outbox(running)}
        assert records[clean].inputs == {"messages": [{"role": "user", "content": "LOUD [email]"}]}
        for identity in (failed, hung):
            assert (records[identity].inputs, records[identity].status) == ("[dropped]", 200)
            assert records[identity].answers[0].completion_tokens > 0
        raw = _raw(Path(running.folder) / "outbox").lower()
        assert not [word for word in (SECRETS[0], "secret words", "aaaa", "quiet") if word in raw]
        for _ in range(12):
            say("x" * 50_000 + " y")
            time.sleep(0.1)
        assert until(lambda: metrics(running, "fledge_outbox_dropped_total") > 0, 10.0)
        assert until(
            lambda: (
                metrics(running, "fledge_outbox_written_total") + metrics(running, "fledge_outbox_dropped_total") == 15
            ),
            5.0,
        )
        assert len(outbox(running)) == metrics(running, "fledge_outbox_written_total")


@pytest.fixture
def small_disk(config: ServeConfig) -> Iterator[tuple[ServeConfig, Path]]:
    """A configuration whose outbox has a disk of its own, with room for 256 kB."""
    port = free_port()
    folder = Path(config.state) / "endpoints" / str(port) / "outbox"
    folder.mkdir(parents=True, mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this test mounts a small disk, and may not here")
    try:
        yield replace(config, port=port), folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.slow
def test_on_a_full_disk_serving_goes_on_and_no_line_is_torn(small_disk: tuple[ServeConfig, Path]) -> None:
    config, folder = small_disk
    filler = folder / "somebody's file"
    with served(config, engine="scripted", port=config.port) as running, client(running) as http:
        ids = []

        def say(text: str) -> None:
            answer = http.post(CHAT, json={"messages": [{"role": "user", "content": text}]})
            assert answer.status_code == 200
            assert answer.elapsed.total_seconds() < 1.0
            ids.append(answer.headers["x-request-id"])

        say("before")
        assert until(lambda: len(outbox(running)) == 1, 5.0)
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        for number in range(30):
            say(f"while it is full {number} " + "x" * 2000)
            time.sleep(0.05)
        log = Path(running.folder) / "log.txt"
        assert until(lambda: "No space left" in log.read_text(encoding="utf-8"), 5.0)
        content = _raw(folder)
        assert content.endswith("\n")
        assert [json.loads(line)["request_id"] for line in content.splitlines()] == ids[: content.count("\n")]
        assert content.count("\n") < 31
        filler.unlink()
        say("after")
        assert until(lambda: {record.request_id for record in outbox(running)} == {*ids}, 10.0)
        assert metrics(running, "fledge_outbox_written_total") == 32
        assert metrics(running, "fledge_outbox_dropped_total") == 0
