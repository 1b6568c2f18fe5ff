"""The recorder process: `python -m fledge.monitoring.recorder CONFIG CONTROL_FD`. Ships the outbox to MLflow."""

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fledge.core import state
from fledge.core.control import Control
from fledge.core.errors import FledgeError
from fledge.core.messages import OutboxRecord

FILE = "outbox.jsonl"
BATCH = 200
PERIOD_S = 1.0
LONGEST_DELAY_S = 60.0

Ship = Callable[[Sequence[OutboxRecord]], None]

_decode = msgspec.json.Decoder(OutboxRecord).decode


class Recorder:
    """Reads whole lines behind the last offset kept, ships them, and only then moves the offset."""

    def __init__(self, folder: Path, ship: Ship) -> None:
        self._outbox = folder / FILE
        self._offset_file = folder / "offset.json"
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
        offset = self._offset()
        if not self._outbox.exists():
            return 0
        with self._outbox.open("rb") as file:
            file.seek(offset)
            lines = [line for line in (file.readline() for _ in range(BATCH)) if line.endswith(b"\n")]
        records = []
        for line in lines:
            try:
                records.append(_decode(line))
            except msgspec.DecodeError:
                sys.stderr.write("fledge: recorder: a broken line in the outbox was left out\n")
        if lines:
            self._ship(records)
            state.write_json(self._offset_file, {"offset": offset + sum(map(len, lines))})
        return len(lines)

    def _offset(self) -> int:
        try:
            return int(json.loads(self._offset_file.read_text(encoding="utf-8"))["offset"])
        except (OSError, ValueError, KeyError):
            return 0


def read_outbox(folder: Path) -> list[OutboxRecord]:
    """All whole records of an outbox, oldest first."""
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except OSError:
        return []
    return [_decode(line) for line in lines if line.endswith(b"}")]


def main() -> None:
    config: dict[str, Any] = json.loads(sys.argv[1])
    os.nice(10)

    from fledge.monitoring._mlflow import TraceShipper

    recorder = Recorder(Path(config["outbox"]), TraceShipper(config["tracking_uri"], config["experiment"]))

    def on_event(message: dict[str, Any]) -> None:
        if message["event"] == "gone":
            os._exit(0)
        recorder.stop()

    Control(int(sys.argv[2]), on_event).send(event="ready")
    recorder.run()


if __name__ == "__main__":
    main()
