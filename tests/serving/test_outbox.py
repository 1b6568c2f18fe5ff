"""The outbox: each record is written once and whole despite disk errors, and without texts that must not be kept."""

import asyncio
import contextlib
import json
import resource
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fledge.core.messages import Answered, FeedbackRecord, OutboxRecord
from fledge.core.outbox_files import outbox_files
from fledge.core.types import Content
from fledge.serving import outbox as outbox_module
from fledge.serving.outbox import Outbox
from fledge.serving.outbox_reader import Position, read_batch, read_outbox
from fledge.serving.redaction import make_redactor
from tests.conftest import PATIENCE_S

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


def _open_outbox(folder: Path, *rules: str, content: Content = "keep", cap_bytes: int = 10**9) -> Outbox:
    return Outbox(folder, cap_bytes=cap_bytes, content=content, redact=make_redactor(rules))


def _put(box: Outbox, *records: OutboxRecord | FeedbackRecord) -> None:
    for record in records:
        box.put(record)


def _run(box: Outbox, work: Callable[[], Any]) -> None:
    """Run an outbox while `work` puts records."""

    async def run_both() -> None:
        writing = asyncio.create_task(box.run())
        await asyncio.sleep(0)
        if asyncio.iscoroutine(working := work()):
            await working
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(run_both())


def _raw(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in outbox_files(folder))


def test_records_are_read_back_unchanged(tmp_path: Path) -> None:
    box, records = _open_outbox(tmp_path), [_record(number, "schön \u2028 \0 \U0001f600\n") for number in range(50)]
    _run(box, lambda: _put(box, *records))
    assert read_outbox(tmp_path) == records
    assert (box.written, box.dropped) == (50, 0)
    assert [path.stat().st_mode & 0o777 for path in outbox_files(tmp_path)] == [0o600]


@pytest.mark.parametrize("content", ["keep", "hash", "drop"])
def test_texts_are_kept_hashed_or_dropped(tmp_path: Path, content: Content) -> None:
    box = _open_outbox(tmp_path, content=content)
    feedback = FeedbackRecord("f" * 32, "0" * 32, "good", TEXT, TEXT, TEXT, 7)
    _run(box, lambda: _put(box, _record(), feedback, replace(feedback, value=0.5)))
    raw = _raw(tmp_path)
    assert any(secret in raw for secret in SECRETS) == (content == "keep")
    assert ("sha256:" in raw) == (content == "hash")
    (record,) = read_outbox(tmp_path)
    kept = replace(record, inputs=None, error="", answers=[replace(record.answers[0], prompt_text="", output="")])
    assert kept == replace(_record(), inputs=None, error="", answers=[Answered("", "", 1, 2, 3, 4, 5, "stop")])
    values = [json.loads(line) for line in raw.splitlines() if "feedback_id" in line]
    assert [value["name"] for value in values] == ["good", "good"]
    assert values[1]["value"] == 0.5


def test_only_equal_texts_have_equal_hashes(tmp_path: Path) -> None:
    box = _open_outbox(tmp_path, content="hash")
    _run(box, lambda: _put(box, _record(0, "one"), _record(1, "one"), _record(2, "two")))
    outputs = [record.answers[0].output for record in read_outbox(tmp_path)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_texts_are_redacted_before_they_reach_the_disk(tmp_path: Path) -> None:
    box = _open_outbox(tmp_path, "email", "card")
    feedback = FeedbackRecord("f" * 32, "0" * 32, "why", TEXT, TEXT, TEXT, 7)
    _run(box, lambda: _put(box, _record(), feedback))
    raw = _raw(tmp_path)
    assert not [secret for secret in SECRETS if secret in raw or secret.upper() in raw]
    (record,) = read_outbox(tmp_path)
    assert record.inputs == {"messages": ["I am [email], my card is [card]."]}
    assert record.answers[0].completion_tokens == 5


@pytest.mark.parametrize(
    "rule", ["regex:(a|aa)+$", "tests.serving.test_outbox:broken_rule", "tests.serving.test_outbox:surrogate_rule"]
)
def test_failing_rule_drops_texts_and_keeps_timings(tmp_path: Path, rule: str) -> None:
    box = _open_outbox(tmp_path, rule)
    text = "a" * 100 + "b"
    _run(box, lambda: _put(box, _record(1, text)))
    assert "aaa" not in _raw(tmp_path).lower()
    (record,) = read_outbox(tmp_path)
    assert (record.request_id, record.status, record.answers[0].ended_ns) == (f"{1:032x}", 200, 3)
    assert (record.inputs, record.answers[0].output, record.error) == ("[dropped]",) * 3


def broken_rule(text: str) -> str:
    raise ValueError(text)


def surrogate_rule(_text: str) -> str:
    return "\ud800"


_released = threading.Event()


def slow_rule(text: str) -> str:
    return text if _released.wait(PATIENCE_S) else "not released"


def test_slow_rule_does_not_block_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.01)
    box = _open_outbox(tmp_path, "tests.serving.test_outbox:slow_rule")
    _released.clear()

    async def requests() -> None:
        box.put(_record(0))
        while box._waiting:  # until the rule runs, in another thread
            await asyncio.sleep(0.001)
        for number in range(1, 100):
            box.put(_record(number))
            await asyncio.sleep(0)
        assert read_outbox(tmp_path) == []
        _released.set()

    _run(box, requests)
    assert [int(record.request_id, 16) for record in read_outbox(tmp_path)] == [*range(100)]
    assert "not released" not in _raw(tmp_path)


def test_files_are_rotated_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "ROTATE_BYTES", 3000)
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.001)
    box = _open_outbox(tmp_path)

    async def put_slowly() -> None:
        for number in range(400):
            box.put(_record(number))
            while number - box.written > 10:  # keep the batches smaller than a file
                await asyncio.sleep(0.001)

    _run(box, put_slowly)
    assert len(outbox_files(tmp_path)) > 5
    assert outbox_files(tmp_path)[0].name == "outbox-000001.jsonl"
    read, position = [], Position()
    while (batch := read_batch(tmp_path, position, 7)).next != position:
        read += [record for record in batch.records if isinstance(record, OutboxRecord)]
        position = batch.next
    assert [int(record.request_id, 16) for record in read] == [*range(400)]


def test_new_outbox_starts_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "outbox-000007.jsonl").write_bytes(b'{"trace_id": "torn')
    (tmp_path / "outbox-old.jsonl").write_bytes(b"")
    box = _open_outbox(tmp_path)
    _run(box, lambda: _put(box, _record()))
    assert (tmp_path / "outbox-000008.jsonl").stat().st_size > 100
    assert read_outbox(tmp_path) == [_record()]
    position = Position()
    found: list[Any] = []
    while (batch := read_batch(tmp_path, position, 100)).next != position:
        found, position = found + batch.records, batch.next
    assert found == [_record()]


def test_records_beyond_the_cap_are_dropped_and_counted(tmp_path: Path) -> None:
    box = _open_outbox(tmp_path, cap_bytes=5000)
    for start in (0, 50):
        _run(box, lambda: _put(box, *map(_record, range(start, start + 50))))  # noqa: B023 (runs in this iteration)
    assert (box.written, box.dropped) == (50, 50)
    assert len(read_outbox(tmp_path)) == 50


def test_queue_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "WAITING_BYTES", 10_000)
    box = _open_outbox(tmp_path)
    _run(box, lambda: _put(box, *map(_record, range(1000))))
    assert 5 < box.written < 50
    assert box.written + box.dropped == 1000
    assert len(read_outbox(tmp_path)) == box.written


@contextlib.contextmanager
def _limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files, to simulate a disk that becomes full during a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_partial_write_is_undone_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.02)
    box = _open_outbox(tmp_path)

    async def fill_and_free() -> None:
        box.put(_record(0))
        while box.written < 1:
            await asyncio.sleep(0.001)
        (file,) = outbox_files(tmp_path)
        with _limit_file_size(file.stat().st_size + 100):
            for number in range(1, 20):
                box.put(_record(number))
            while not box._error:
                await asyncio.sleep(0.001)
            await asyncio.sleep(5 * outbox_module.FLUSH_S)  # several retries
            assert _raw(tmp_path).endswith("\n")
            assert len(read_outbox(tmp_path)) == 1
        box.put(_record(20))

    _run(box, fill_and_free)
    assert [int(record.request_id, 16) for record in read_outbox(tmp_path)] == [*range(21)]
    assert (box.written, box.dropped) == (21, 0)
    assert caplog.text.count("cannot write the outbox") == 1


def test_cancelled_write_leaves_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.001)
    for attempt in range(20):
        box = _open_outbox(tmp_path / str(attempt))

        async def put_quickly() -> None:
            for number in range(30):
                box.put(_record(number))  # noqa: B023 (runs in this iteration)
                await asyncio.sleep(0.0005)

        _run(box, put_quickly)
        assert [int(record.request_id, 16) for record in read_outbox(tmp_path / str(attempt))] == [*range(30)]
