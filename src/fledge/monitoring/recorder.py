"""The recorder process: `python -m fledge.monitoring.recorder CONTROL_FD`. Ships the outbox to MLflow and
watches the served aliases."""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import psutil

from fledge.core import state
from fledge.core.control import Control
from fledge.core.endpoint_config import RecorderConfig
from fledge.core.endpoint_state import RecorderFigures
from fledge.core.events import (
    ChildReady,
    EngineCrashed,
    Event,
    LookRequested,
    RecordsShipped,
    ReleaseRefused,
    StopRequested,
    SupervisorGone,
)
from fledge.core.logs import start_logging
from fledge.core.messages import Record
from fledge.core.outbox_files import outbox_files
from fledge.monitoring.background_tasks import BackgroundTasks
from fledge.serving.outbox_reader import (
    KEPT_FILES,
    LineCount,
    Position,
    RecordRefusedError,
    read_batch,
    remove_shipped,
    waiting_bytes,
)

log = logging.getLogger(__name__)

BATCH = 200
BUSY_BATCH = 20
BUSY_PERCENT = 50.0  # processor time of others; beyond, shipping would slow down answers
BUSY_SHARE = 0.08
NICE = 5
PERIOD_S = 1.0
HALF = 0.5  # of the outbox's limit
LONGEST_DELAY_S = 60.0
POSITION_FILE = "position.json"
OTLP_POSITION_FILE = "position-otlp.json"
REFUSED_FILE = "refused.jsonl"

Ship = Callable[[Sequence[Record]], None]


class OutboxRecorder:
    """Reads complete lines after the saved position, ships them, and only then advances the position.

    On a busy machine it takes a small share of the time, which grows with the outbox. `report` is called with the
    figures after each batch. Of several readers one `removes` shipped records, after the reader whose position is in
    `waits_for`.
    """

    def __init__(
        self,
        folder: Path,
        ship: Ship,
        *,
        cap_bytes: int,
        report: Callable[[RecorderFigures], None] = lambda _: None,
        position_file: str = POSITION_FILE,
        waits_for: str = "",
        removes: bool = True,
    ) -> None:
        self._folder = folder
        self._ship = ship
        self._cap = cap_bytes
        self._report = report
        self._file = folder / position_file
        self._waits_for = waits_for
        self._removes = removes
        self._waiting = LineCount(folder, self._position())
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._limit = BATCH
        self.shipped = self.refused = 0
        self.last_error = ""

    def run(self) -> None:
        """Ship until `stop`, then ship the rest."""
        delay = PERIOD_S
        while not self._stop.wait(delay):
            delay = PERIOD_S if self._try_to_ship() else min(2 * delay, LONGEST_DELAY_S)
        self._try_to_ship()

    def stop(self) -> None:
        self._stop.set()

    def _try_to_ship(self) -> bool:
        try:
            self.last_error, before = "", self.last_error
            while self._ship_and_pause():
                pass
            self._send_figures()
        except Exception as error:  # noqa: BLE001 (retried after any error)
            words = str(error) or type(error).__name__
            if words != before:
                log.warning("%s", words)
            self.last_error = words
            with contextlib.suppress(OSError):
                self._send_figures()
            return False
        return True

    def _ship_and_pause(self) -> int:
        """Ship one batch, then pause if the machine is busy; return the number of its records."""
        busy, filled = self._is_busy(), waiting_bytes(self._folder, self._position()) / self._cap
        began = time.thread_time()
        count = self.ship_some(BUSY_BATCH if busy and filled < HALF else BATCH)
        if count:
            self._send_figures()
        if busy and count:
            self._wait_while_busy(time.monotonic() + pause(time.thread_time() - began, filled))
        return count

    def _wait_while_busy(self, until: float) -> None:
        """Wait until the deadline or until the machine is idle."""
        while (left := until - time.monotonic()) > 0 and self._is_busy():
            self._stop.wait(min(PERIOD_S, left))
            self._send_figures()

    def _is_busy(self) -> bool:
        """Return whether other processes have used the machine since the last call."""
        others = psutil.cpu_percent() - self._process.cpu_percent() / (psutil.cpu_count() or 1)
        return others > BUSY_PERCENT and not self._stop.is_set()

    def ship_some(self, most: int = BATCH) -> int:
        """Ship one batch and return the number of its records. A failure halves the next batch, until a refused record
        is isolated."""
        position = self._position()
        batch = read_batch(self._folder, position, min(most, self._limit))
        if batch.records:
            try:
                self._ship(batch.records)
                self.shipped += len(batch.records)
            except Exception as error:
                self._limit = max(1, len(batch.records) // 2)
                if len(batch.records) > 1 or not isinstance(error, RecordRefusedError):
                    raise
                self._set_aside(batch.records[0], error)
            self._limit = min(BATCH, 2 * self._limit)
        if batch.next != position:
            state.write_json(self._file, batch.next._asdict())
            self._waiting.advance(batch.lines)
            if self._removes:
                self._remove(batch.next)
        return len(batch.records)

    def _set_aside(self, record: Record, error: RecordRefusedError) -> None:
        """Move a refused record to its own file, as it would block all others."""
        file = self._folder / REFUSED_FILE
        with state.open_to_append(file) as kept:
            kept.write(msgspec.json.encode(record) + b"\n")
        self.refused += 1
        log.warning("a record was refused and moved to %s: %s", file, error.message)

    def _remove(self, position: Position) -> None:
        """Remove files that all readers have shipped. If space is scarce, keep none for `monitor` and do not wait for
        the other reader, so that its delay loses no records of this one."""
        scarce = sum(path.stat().st_size for path in outbox_files(self._folder)) > HALF * self._cap
        other = self._position(self._waits_for) if self._waits_for and not scarce else position
        remove_shipped(self._folder, min(position, other), keep=0 if scarce else KEPT_FILES)

    def _send_figures(self) -> None:
        waiting = self._waiting.count()
        self._report(RecorderFigures(self.shipped, waiting, self.refused, self.last_error))

    def _position(self, file: str = "") -> Position:
        try:
            path = self._folder / file if file else self._file
            return Position(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Position()


def pause(seconds: float, filled: float) -> float:
    """Return the seconds to pause after `seconds` of work on a busy machine; none if `filled`, the used share of the
    outbox, is 0.5 or more."""
    share = min(1.0, max(BUSY_SHARE, filled / HALF))
    return seconds * (1 / share - 1)


def main() -> None:
    start_logging()
    control = Control(int(sys.argv[1]), RecorderConfig)
    config = control.config
    stopped, imported = threading.Event(), threading.Event()
    recorders: list[OutboxRecorder] = []

    def stop() -> None:
        stopped.set()
        for recorder in recorders:
            recorder.stop()

    def run_tasks() -> None:
        imported.wait()
        tasks.run()

    tasks = BackgroundTasks(config, control)
    control.listen(lambda event: _handle(event, tasks, stop))
    # Started before this thread lowers its priority, which it would inherit.
    threading.Thread(target=run_tasks, name="tasks", daemon=True).start()
    # Answers come first. Not lower: a starved thread may hold the interpreter's lock and block the other tasks.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(NICE)

    from fledge.monitoring._mlflow_requests import TraceShipper

    imported.set()
    if config.outbox:
        recorders += _make_recorders(config, TraceShipper(config.tracking_uri, config.default_name), control)
    control.send(ChildReady())
    if stopped.is_set():  # during the import
        stop()
    _run(recorders)
    stopped.wait()


def _handle(event: Event, tasks: BackgroundTasks, stop: Callable[[], None]) -> None:
    match event:
        case SupervisorGone():
            os._exit(0)
        case LookRequested():
            tasks.look()
        case ReleaseRefused():
            tasks.note_refusal(event)
        case EngineCrashed():
            tasks.note_crash(event)
        case StopRequested():
            stop()


def _run(recorders: Sequence[OutboxRecorder]) -> None:
    """Run all recorders until they are stopped."""
    threads = [threading.Thread(target=recorder.run, name="ship") for recorder in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _make_recorders(config: RecorderConfig, to_mlflow: Ship, control: Control[RecorderConfig]) -> list[OutboxRecorder]:
    folder, cap = Path(config.outbox), config.cap_bytes

    def report(figures: RecorderFigures) -> None:
        control.send(RecordsShipped(figures))

    if not config.otlp:
        return [OutboxRecorder(folder, to_mlflow, cap_bytes=cap, report=report)]
    from fledge.monitoring._otlp import OtlpShipper

    return [
        OutboxRecorder(folder, to_mlflow, cap_bytes=cap, report=report, waits_for=OTLP_POSITION_FILE),
        OutboxRecorder(
            folder, OtlpShipper(config.otlp), cap_bytes=cap, position_file=OTLP_POSITION_FILE, removes=False
        ),
    ]


if __name__ == "__main__":
    main()
