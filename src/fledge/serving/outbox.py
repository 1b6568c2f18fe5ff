"""The outbox: an append-only file in which the endpoint leaves what happened; the recorder ships it."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from fledge.core import state
from fledge.core.messages import OutboxRecord

FILE = "outbox.jsonl"
FLUSH_S = 0.5

_encode = msgspec.json.Encoder().encode


class Outbox:
    """`put` never waits; a task writes and syncs what has gathered twice a second."""

    def __init__(self, folder: Path) -> None:
        path = state.ensure(folder) / FILE
        self._file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)  # noqa: SIM115
        self._waiting: list[bytes] = []

    def put(self, record: OutboxRecord) -> None:
        self._waiting.append(_encode(record) + b"\n")

    async def run(self) -> None:
        """Write until cancelled; then write what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                await asyncio.to_thread(self._write, self._take())
        finally:
            self._write(self._take())

    def _take(self) -> list[bytes]:
        """What has gathered. Called in the thread of `put`: swapped in another, a record could fall between."""
        lines, self._waiting = self._waiting, []
        return lines

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        try:
            self._file.write(b"".join(lines))
            os.fsync(self._file.fileno())
        except OSError as error:  # a full disk, say: keep them and try again
            self._waiting[:0] = lines
            sys.stderr.write(f"fledge: the outbox cannot be written: {error}\n")
