"""The outbox: each record once and whole, whatever the disk does; and in it no text that was not to be kept."""

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


def _box(folder: Path, *rules: str, content: Content = "keep", cap_bytes: int = 10**9) -> Outbox:
    return Outbox(folder, cap_bytes=cap_bytes, content=content, redact=make_redactor(rules))


def _put(box: Outbox, *records: OutboxRecord | FeedbackRecord) -> None:
    for record in records:
        box.put(record)


def _run(box: Outbox, work: Callable[[], Any]) -> None:
    """Have an outbox write while `work` is done."""

    async def both() -> None:
        writing = asyncio.create_task(box.run())
        await asyncio.sleep(0)
        if asyncio.iscoroutine(working := work()):
            await working
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(both())


def _raw(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in outbox_files(folder))


def test_what_was_put_is_read_back_as_it_was(tmp_path: Path) -> None:
    box, records = _box(tmp_path), [_record(number, "schön \u2028 \0 \U0001f600\n") for number in range(50)]
    _run(box, lambda: _put(box, *records))
    assert read_outbox(tmp_path) == records
    assert (box.written, box.dropped) == (50, 0)
    assert [path.stat().st_mode & 0o777 for path in outbox_files(tmp_path)] == [0o600]


@pytest.mark.parametrize("content", ["keep", "hash", "drop"])
def test_texts_are_kept_hashed_or_dropped_and_the_rest_stays(tmp_path: Path, content: Content) -> None:
    box = _box(tmp_path, content=content)
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


def test_the_same_text_has_the_same_hash_and_another_has_another(tmp_path: Path) -> None:
    box = _box(tmp_path, content="hash")
    _run(box, lambda: _put(box, _record(0, "one"), _record(1, "one"), _record(2, "two")))
    outputs = [record.answers[0].output for record in read_outbox(tmp_path)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_texts_are_redacted_before_they_reach_the_disk(tmp_path: Path) -> None:
    box = _box(tmp_path, "email", "card")
    feedback = FeedbackRecord("f" * 32, "0" * 32, "why", TEXT, TEXT, TEXT, 7)
    _run(box, lambda: _put(box, _record(), feedback))
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
    _run(box, lambda: _put(box, _record(1, text)))
    assert "aaa" not in _raw(tmp_path).lower()
    (record,) = read_outbox(tmp_path)
    assert (record.request_id, record.status, record.answers[0].ended_ns) == (f"{1:032x}", 200, 3)
    assert (record.inputs, record.answers[0].output, record.error) == ("[dropped]",) * 3


def broken_rule(text: str) -> str:
    raise ValueError(text)


def surrogates(_text: str) -> str:
    return "\ud800"


_released = threading.Event()


def patient_rule(text: str) -> str:
    return text if _released.wait(PATIENCE_S) else "nobody released it"


def test_a_slow_rule_holds_no_request_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.01)
    box = _box(tmp_path, "tests.serving.test_outbox:patient_rule")
    _released.clear()

    async def requests() -> None:
        box.put(_record(0))
        while box._waiting:  # until the rule has it, in a thread of its own
            await asyncio.sleep(0.001)
        for number in range(1, 100):
            box.put(_record(number))
            await asyncio.sleep(0)
        assert read_outbox(tmp_path) == []
        _released.set()

    _run(box, requests)
    assert [int(record.request_id, 16) for record in read_outbox(tmp_path)] == [*range(100)]
    assert "nobody released it" not in _raw(tmp_path)


def test_files_are_rotated_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "ROTATE_BYTES", 3000)
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.001)
    box = _box(tmp_path)

    async def steadily() -> None:
        for number in range(400):
            box.put(_record(number))
            while number - box.written > 10:  # it writes more than a file in all
                await asyncio.sleep(0.001)

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
    _run(box, lambda: _put(box, _record()))
    assert (tmp_path / "outbox-000008.jsonl").stat().st_size > 100
    assert read_outbox(tmp_path) == [_record()]
    position = Position()
    found: list[Any] = []
    while (batch := read_batch(tmp_path, position, 100)).next != position:
        found, position = found + batch.records, batch.next
    assert found == [_record()]


def test_beyond_its_cap_records_are_dropped_and_counted(tmp_path: Path) -> None:
    box = _box(tmp_path, cap_bytes=5000)
    for start in (0, 50):
        _run(box, lambda: _put(box, *map(_record, range(start, start + 50))))  # noqa: B023 (done at once)
    assert (box.written, box.dropped) == (50, 50)
    assert len(read_outbox(tmp_path)) == 50


def test_what_waits_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "WAITING_BYTES", 10_000)
    box = _box(tmp_path)
    _run(box, lambda: _put(box, *map(_record, range(1000))))
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.02)
    box = _box(tmp_path)

    async def fill_and_free() -> None:
        box.put(_record(0))
        while box.written < 1:
            await asyncio.sleep(0.001)
        (file,) = outbox_files(tmp_path)
        with _files_of_at_most(file.stat().st_size + 100):
            for number in range(1, 20):
                box.put(_record(number))
            while not box._error:
                await asyncio.sleep(0.001)
            await asyncio.sleep(5 * outbox_module.FLUSH_S)  # and some tries more
            assert _raw(tmp_path).endswith("\n")
            assert len(read_outbox(tmp_path)) == 1
        box.put(_record(20))

    _run(box, fill_and_free)
    assert [int(record.request_id, 16) for record in read_outbox(tmp_path)] == [*range(21)]
    assert (box.written, box.dropped) == (21, 0)
    assert caplog.text.count("cannot write the outbox") == 1


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
