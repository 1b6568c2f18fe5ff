"""The recorder process: `python -m fledge.monitoring.recorder CONTROL_FD`. Ships the outbox to MLflow, and looks
after the aliases that are served."""

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
from fledge.core.outbox_files import outbox_files
from fledge.monitoring.background_tasks import Duties
from fledge.serving.outbox_reader import (
    KEPT_FILES,
    LineCount,
    Position,
    Record,
    RecordRefusedError,
    read_batch,
    remove_shipped,
    waiting_bytes,
)

log = logging.getLogger(__name__)

BATCH = 200
BUSY_BATCH = 20
BUSY_PERCENT = 50.0  # of the processors' time, used by others: what we take from there on is taken from answers
BUSY_SHARE = 0.08
NICE = 5
PERIOD_S = 1.0
HALF = 0.5  # of the outbox's room
LONGEST_DELAY_S = 60.0
POSITION_FILE = "position.json"
OTLP_POSITION_FILE = "position-otlp.json"
REFUSED_FILE = "refused.jsonl"

Ship = Callable[[Sequence[Record]], None]


class OutboxRecorder:
    """Reads whole lines behind the last position kept, ships them, and only then moves the position.

    While the machine is busy it takes a small share of the time only, and more the fuller the outbox is.
    `told` is called with the figures after each batch. One of several readers `removes` what is shipped, and waits for
    the one whose position is in `waits_for`.
    """

    def __init__(
        self,
        folder: Path,
        ship: Ship,
        *,
        cap_bytes: int,
        told: Callable[[RecorderFigures], None] = lambda _: None,
        position_file: str = POSITION_FILE,
        waits_for: str = "",
        removes: bool = True,
    ) -> None:
        self._folder = folder
        self._ship = ship
        self._cap = cap_bytes
        self._told = told
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
        """Ship until `stop`, then once more what is left."""
        delay = PERIOD_S
        while not self._stop.wait(delay):
            delay = PERIOD_S if self._try_to_ship() else min(2 * delay, LONGEST_DELAY_S)
        self._try_to_ship()

    def stop(self) -> None:
        self._stop.set()

    def _try_to_ship(self) -> bool:
        try:
            self.last_error, before = "", self.last_error
            while self._ship_politely():
                pass
            self._tell()
        except Exception as error:  # noqa: BLE001 (whatever MLflow and its store raise, it is tried again)
            words = str(error) or type(error).__name__
            if words != before:
                log.warning("%s", words)
            self.last_error = words
            with contextlib.suppress(OSError):
                self._tell()
            return False
        return True

    def _ship_politely(self) -> int:
        """Ship one batch, and make way for as long as is due; the number of records in it."""
        busy, filled = self._is_busy(), waiting_bytes(self._folder, self._position()) / self._cap
        began = time.thread_time()
        count = self.ship_some(BUSY_BATCH if busy and filled < HALF else BATCH)
        if count:
            self._tell()
        if busy and count:
            self._make_way(time.monotonic() + pause(time.thread_time() - began, filled))
        return count

    def _make_way(self, until: float) -> None:
        """Wait, for as long as others need the machine."""
        while (left := until - time.monotonic()) > 0 and self._is_busy():
            self._stop.wait(min(PERIOD_S, left))
            self._tell()

    def _is_busy(self) -> bool:
        """Whether others have used the machine since this was asked last."""
        others = psutil.cpu_percent() - self._process.cpu_percent() / (psutil.cpu_count() or 1)
        return others > BUSY_PERCENT and not self._stop.is_set()

    def ship_some(self, most: int = BATCH) -> int:
        """Ship one batch; the number of records in it. After a failure the next one is half as large, until the one
        record is found that is refused for itself."""
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
        """Keep a record beside the outbox, for people: it would hold up all others for ever."""
        file = self._folder / REFUSED_FILE
        with state.open_to_append(file) as kept:
            kept.write(msgspec.json.encode(record) + b"\n")
        self.refused += 1
        log.warning("a record was refused and is in %s: %s", file, error.message)

    def _remove(self, position: Position) -> None:
        """Remove what all have shipped. Where room gets scarce, none of it is kept for the monitor, and a reader that
        is away is not waited for: it may cost nobody else records."""
        scarce = sum(path.stat().st_size for path in outbox_files(self._folder)) > HALF * self._cap
        other = self._position(self._waits_for) if self._waits_for and not scarce else position
        remove_shipped(self._folder, min(position, other), keep=0 if scarce else KEPT_FILES)

    def _tell(self) -> None:
        waiting = self._waiting.count()
        self._told(RecorderFigures(self.shipped, waiting, self.refused, self.last_error))

    def _position(self, file: str = "") -> Position:
        try:
            path = self._folder / file if file else self._file
            return Position(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Position()


def pause(seconds: float, filled: float) -> float:
    """How long to make way after `seconds` of work on a busy machine, with so much of the outbox's room taken (0 to 1):
    from half of it on nothing matters more than to make room."""
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

    def attend() -> None:
        imported.wait()
        duties.run()

    duties = Duties(config, control)
    control.listen(lambda event: _handle(event, duties, stop))
    # Begun before this thread steps back, which it would inherit.
    threading.Thread(target=attend, name="duties", daemon=True).start()
    # Answers come first. Not lower still: a thread that is given no time may hold the interpreter's lock meanwhile, and
    # aliases and a canary would not be looked at.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(NICE)

    from fledge.monitoring._mlflow_requests import TraceShipper

    imported.set()
    if config.outbox:
        recorders += _recorders(config, TraceShipper(config.tracking_uri, config.default_name), control)
    control.send(ChildReady())
    if stopped.is_set():  # while this was imported
        stop()
    _run(recorders)
    stopped.wait()


def _handle(event: Event, duties: Duties, stop: Callable[[], None]) -> None:
    match event:
        case SupervisorGone():
            os._exit(0)
        case LookRequested():
            duties.look()
        case ReleaseRefused():
            duties.refused(event)
        case EngineCrashed():
            duties.crashed(event)
        case StopRequested():
            stop()


def _run(recorders: Sequence[OutboxRecorder]) -> None:
    """Let all ship until they have been stopped."""
    threads = [threading.Thread(target=recorder.run, name="ship") for recorder in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _recorders(config: RecorderConfig, to_mlflow: Ship, control: Control[RecorderConfig]) -> list[OutboxRecorder]:
    folder, cap = Path(config.outbox), config.cap_bytes

    def told(figures: RecorderFigures) -> None:
        control.send(RecordsShipped(figures))

    if not config.otlp:
        return [OutboxRecorder(folder, to_mlflow, cap_bytes=cap, told=told)]
    from fledge.monitoring._otlp import OtlpShipper

    return [
        OutboxRecorder(folder, to_mlflow, cap_bytes=cap, told=told, waits_for=OTLP_POSITION_FILE),
        OutboxRecorder(
            folder, OtlpShipper(config.otlp), cap_bytes=cap, position_file=OTLP_POSITION_FILE, removes=False
        ),
    ]


if __name__ == "__main__":
    main()
