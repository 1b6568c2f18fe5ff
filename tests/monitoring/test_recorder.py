"""The recorder ships each record once, when the tracking server is available."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fledge.core.endpoint_state import RecorderFigures
from fledge.core.errors import FledgeError
from fledge.core.messages import Answered, FeedbackRecord, OutboxRecord, Record
from fledge.core.outbox_files import outbox_files
from fledge.core.settings import Workspace
from fledge.monitoring import recorder as recorder_module
from fledge.monitoring._mlflow_requests import TraceShipper
from fledge.monitoring.recorder import POSITION_FILE, REFUSED_FILE, OutboxRecorder, pause
from fledge.serving import outbox as outbox_module
from fledge.serving.outbox import Outbox
from fledge.serving.outbox_reader import KEPT_FILES, RecordRefusedError
from fledge.serving.redaction import make_redactor
from fledge.tracking._mlflow_connection import connect
from tests.serving.harness import until

CAP = 10**9


def _record(number: int) -> OutboxRecord:
    request_id, now = f"{number:032x}", time.time_ns()
    answer = Answered("user: Why?", "Because.", now - 3, now - 2, now - 1, 4, 5, "stop")
    inputs = {"messages": [{"role": "user", "content": "Why?"}]}
    return OutboxRecord(
        f"tr-{request_id}", request_id, "chat", 200, now - 4, now, "mine", 1, "champion", "", inputs, [answer]
    )


def _append(folder: Path, numbers: Sequence[int], file: int = 1) -> None:
    import msgspec

    folder.mkdir(exist_ok=True)
    with (folder / f"outbox-{file:06}.jsonl").open("ab") as lines:
        for number in numbers:
            lines.write(msgspec.json.encode(_record(number)) + b"\n")


def _traces(workspace: Workspace) -> list[str]:
    client = connect(workspace.tracking)
    experiment = client.get_experiment_by_name("mine-endpoint")
    found = client.search_traces(locations=[experiment.experiment_id], max_results=500) if experiment else []
    return sorted(trace.info.trace_id for trace in found)


class _Sink:
    """Collects records, or fails while it is down."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.down = False

    def __call__(self, records: Sequence[Record]) -> None:
        if self.down:
            raise FledgeError("the tracker does not answer")
        self.records += records


def test_records_shipped_twice_make_one_trace(workspace: Workspace, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    _append(outbox, range(30))
    shipper = TraceShipper(workspace.tracking, "mine")
    recorder = OutboxRecorder(outbox, shipper, cap_bytes=CAP)
    assert [recorder.ship_some(20) for _ in range(3)] == [20, 10, 0]
    expected = [f"tr-{number:032x}" for number in range(30)]
    assert _traces(workspace) == expected
    (outbox / POSITION_FILE).unlink()  # as after a crash before the position was written
    restarted = OutboxRecorder(outbox, shipper, cap_bytes=CAP)
    assert restarted.ship_some() == 30
    assert _traces(workspace) == expected


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_small_outbox_is_emptied_as_it_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.01)
    sink, cap = _Sink(), 100_000
    box = Outbox(tmp_path, cap_bytes=cap, content="keep", redact=make_redactor(()))
    recorder = OutboxRecorder(tmp_path, sink, cap_bytes=cap)

    async def write_and_ship() -> None:
        writing = asyncio.create_task(box.run())
        for number in range(10):
            for record in range(max(1, 50_000 // size)):
                box.put(replace(_record(100 * number + record), inputs="x" * size))
            count = (number + 1) * max(1, 50_000 // size)
            while box.written + box.dropped < count:
                await asyncio.sleep(0.01)
            while recorder.ship_some():
                pass
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(write_and_ship())
    assert len(sink.records) == box.written
    assert sum(path.stat().st_size for path in outbox_files(tmp_path)) < max(cap, 3 * size)
    assert box.dropped == 0 if size < cap else box.written >= 5


def test_recorder_resumes_and_skips_a_broken_line(tmp_path: Path) -> None:
    outbox, sink = tmp_path / "outbox", _Sink()
    _append(outbox, [1, 2])
    OutboxRecorder(outbox, sink, cap_bytes=CAP).ship_some()
    with (outbox / "outbox-000001.jsonl").open("ab") as file:
        file.write(b'{"trace_id": \n')
    _append(outbox, [3])
    with (outbox / "outbox-000001.jsonl").open("ab") as file:
        file.write(b'{"half a line')
    report = list[RecorderFigures]()
    recorder = OutboxRecorder(outbox, sink, cap_bytes=CAP, report=report.append)
    recorder.stop()
    recorder.run()
    assert [record.request_id for record in sink.records] == [f"{number:032x}" for number in (1, 2, 3)]
    assert report[-1] == RecorderFigures(shipped=1, waiting=0, refused=0, last_error="")


def test_unreachable_server_only_delays_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "PERIOD_S", 0.05)
    outbox, sink, report = tmp_path / "outbox", _Sink(), list[RecorderFigures]()
    sink.down = True
    _append(outbox, range(5))
    recorder = OutboxRecorder(outbox, sink, cap_bytes=CAP, report=report.append)
    thread = threading.Thread(target=recorder.run)
    thread.start()
    try:
        assert until(lambda: len(report) > 2)
        assert report[-1] == RecorderFigures(0, waiting=5, refused=0, last_error="the tracker does not answer")
        _append(outbox, range(5, 8))
        sink.down = False
        assert until(lambda: report[-1] == RecorderFigures(8, waiting=0, refused=0, last_error=""))
    finally:
        recorder.stop()
        thread.join()
    assert len(sink.records) == 8


def test_refused_record_does_not_block_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "PERIOD_S", 0.01)
    outbox, sink = tmp_path / "outbox", _Sink()
    _append(outbox, range(40))

    def ship(records: Sequence[Record]) -> None:
        if any(record.request_id == f"{13:032x}" for record in records):
            raise RecordRefusedError("that cannot be stored")
        sink(records)

    report = list[RecorderFigures]()
    recorder = OutboxRecorder(outbox, ship, cap_bytes=CAP, report=report.append)
    thread = threading.Thread(target=recorder.run)
    thread.start()
    try:
        assert until(lambda: report[-1:] == [RecorderFigures(39, waiting=0, refused=1, last_error="")])
    finally:
        recorder.stop()
        thread.join()
    assert [record.request_id for record in sink.records] == [f"{n:032x}" for n in range(40) if n != 13]
    (refused,) = (outbox / REFUSED_FILE).read_text(encoding="utf-8").splitlines()
    assert json.loads(refused)["request_id"] == f"{13:032x}"


def test_locked_store_is_retried(workspace: Workspace, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    _append(outbox, range(3))
    recorder = OutboxRecorder(outbox, TraceShipper(workspace.tracking, "mine"), cap_bytes=CAP)
    recorder.ship_some(1)  # creates the experiment
    database = sqlite3.connect(workspace.tracking.removeprefix("sqlite:///"), check_same_thread=False)
    database.execute("BEGIN EXCLUSIVE")
    unlocking = threading.Timer(2.0, database.rollback)
    unlocking.start()
    assert until(recorder._try_to_ship)
    unlocking.join()
    database.close()
    assert len(_traces(workspace)) == 3


def test_shipped_files_are_removed_after_the_last_reader(tmp_path: Path) -> None:
    outbox, sink = tmp_path / "outbox", _Sink()
    for file in range(1, KEPT_FILES + 4):
        _append(outbox, [file], file)
    recorder = OutboxRecorder(outbox, sink, cap_bytes=CAP, waits_for="position-other.json")
    while recorder.ship_some():
        pass
    assert len(outbox_files(outbox)) == KEPT_FILES + 3
    other = OutboxRecorder(outbox, sink, cap_bytes=CAP, position_file="position-other.json", removes=False)
    while other.ship_some():
        pass
    assert len(outbox_files(outbox)) == KEPT_FILES + 3
    _append(outbox, [100], KEPT_FILES + 4)
    recorder.ship_some()
    assert len(outbox_files(outbox)) == KEPT_FILES + 2
    assert len(sink.records) == 2 * (KEPT_FILES + 3) + 1
    for file in range(200, 210):
        _append(outbox, [file], file)
    small = OutboxRecorder(outbox, sink, cap_bytes=1000, waits_for="position-other.json")
    while small.ship_some():
        pass
    assert len(outbox_files(outbox)) == 1  # above the cap, files are removed without waiting for readers


def test_feedback_becomes_an_assessment_once(workspace: Workspace, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    _append(outbox, [7])
    import msgspec

    with (outbox / "outbox-000001.jsonl").open("ab") as file:
        for name, value, user in (("good", True, "ann"), ("stars", 4.0, "\0" + "x" * 500)):
            feedback = FeedbackRecord(f"{name}-id", f"{7:032x}", name, value, "fi\0ne", user)
            file.write(msgspec.json.encode(feedback) + b"\n")
        file.write(msgspec.json.encode(FeedbackRecord("lost", f"{8:032x}", "good", False)) + b"\n")
    shipper = TraceShipper(workspace.tracking, "mine")
    OutboxRecorder(outbox, shipper, cap_bytes=CAP).ship_some()
    (outbox / POSITION_FILE).unlink()
    OutboxRecorder(outbox, shipper, cap_bytes=CAP).ship_some()
    trace = MlflowClient(workspace.tracking).get_trace(f"tr-{7:032x}")
    found = {item.name: (item.feedback.value, item.rationale) for item in trace.info.assessments}
    assert len(trace.info.assessments) == 2
    assert found == {"good": (True, "fine"), "stars": (4.0, "fine")}
    assert {item.source.source_id for item in trace.info.assessments} == {"ann", "x" * 250}  # limit of PostgreSQL


def test_recorder_pauses_on_a_busy_machine_until_the_outbox_fills() -> None:
    assert pause(1.0, 0.0) == pytest.approx(11.5)
    assert pause(1.0, 0.1) == pytest.approx(4.0)
    assert pause(1.0, 0.5) == pause(1.0, 2.0) == 0.0


def test_unreadable_position_restarts_from_the_first_record(tmp_path: Path) -> None:
    outbox, sink = tmp_path / "outbox", _Sink()
    _append(outbox, [1])
    (outbox / POSITION_FILE).write_text(json.dumps({"file": "outbox-000001.jsonl"})[:-3])
    assert OutboxRecorder(outbox, sink, cap_bytes=CAP).ship_some() == 1
