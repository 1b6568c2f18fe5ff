"""The recorder process: `python -m fledge.monitoring.recorder CONFIG CONTROL_FD`. Ships the outbox to MLflow, and looks
after the aliases that are served."""

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fledge.core import state
from fledge.core.control import Control
from fledge.core.errors import FledgeError
from fledge.monitoring.outbox_reader import Position, Record, read_batch, remove_shipped

BATCH = 200
PERIOD_S = 1.0
LONGEST_DELAY_S = 60.0
POSITION_FILE = "position.json"

Ship = Callable[[Sequence[Record]], None]


class Recorder:
    """Reads whole lines behind the last position kept, ships them, and only then moves the position."""

    def __init__(self, folder: Path, ship: Ship) -> None:
        self._folder = folder
        self._ship = ship
        self._stop = threading.Event()

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
            while self.ship_some():
                pass
        except (FledgeError, OSError) as error:
            sys.stderr.write(f"fledge: recorder: {error}\n")
            return False
        return True

    def ship_some(self) -> int:
        """Ship one batch; the number of records in it."""
        position = self._position()
        batch = read_batch(self._folder, position, BATCH)
        if batch.records:
            self._ship(batch.records)
        if batch.next != position:
            state.write_json(self._folder / POSITION_FILE, batch.next._asdict())
            remove_shipped(self._folder, batch.next)
        return len(batch.records)

    def _position(self) -> Position:
        try:
            return Position(**json.loads((self._folder / POSITION_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Position()


def _watch(config: dict[str, Any], control: Control, stopped: threading.Event) -> None:
    """Tell the supervisor when a served alias means another release."""
    from fledge.monitoring._mlflow_aliases import AliasWatch

    watch = AliasWatch(config["tracking_uri"], Path(config["releases"]), config["watched"])
    while True:
        try:
            for move in watch.look():
                control.send(event="moved", **move)
        except (FledgeError, OSError) as error:
            sys.stderr.write(f"fledge: recorder: the aliases cannot be looked at: {error}\n")
        if not config["watch_s"] or stopped.wait(config["watch_s"]):
            return


def main() -> None:
    config: dict[str, Any] = json.loads(sys.argv[1])
    stopped = threading.Event()
    recorder: Recorder | None = None

    def on_event(message: dict[str, Any]) -> None:
        if message["event"] == "gone":
            os._exit(0)
        stopped.set()
        if recorder:
            recorder.stop()

    control = Control(int(sys.argv[2]), on_event)
    # Answers come first: this process gets what nobody else wants.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(19)

    from fledge.monitoring._mlflow import TraceShipper

    if config["outbox"]:
        recorder = Recorder(Path(config["outbox"]), TraceShipper(config["tracking_uri"], config["default_name"]))
    control.send(event="ready")
    if config["watch_s"]:
        threading.Thread(target=_watch, args=(config, control, stopped), name="watch", daemon=True).start()
    if stopped.is_set() and recorder:
        recorder.stop()
    if recorder:
        recorder.run()
    else:
        stopped.wait()


if __name__ == "__main__":
    main()
