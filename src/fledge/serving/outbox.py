"""The outbox: append-only files in which the endpoint leaves what happened; the recorder ships them."""

import asyncio
import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from fledge.core import state
from fledge.core.limits import Content
from fledge.core.messages import FeedbackRecord, OutboxRecord
from fledge.serving.redaction import Redactor

FLUSH_S = 0.5
ROTATE_BYTES = 16 << 20

_encode = msgspec.json.Encoder().encode


class Outbox:
    """`put` never waits; a task writes and syncs what has gathered twice a second.

    Files are `outbox-000001.jsonl` and so on; the recorder removes those that it has shipped. When all of them take
    more than `cap_bytes`, records are dropped and counted.
    """

    def __init__(self, folder: Path, *, cap_bytes: int, content: Content, redact: Redactor) -> None:
        self._folder = state.ensure(folder)
        self._cap = cap_bytes
        self._content = content
        self._redact = redact
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        existing = [int(path.stem.rpartition("-")[2]) for path in self._files()]
        self._number = max(existing, default=0) + 1
        self._file: Any = None
        self._size = 0
        self.written = self.dropped = 0

    def put(self, record: OutboxRecord | FeedbackRecord) -> None:
        """Leave a record; its texts are redacted, hashed or dropped as was set."""
        if self._waiting_bytes > self._cap:
            self.dropped += 1
            return
        line = _encode(self._private(record)) + b"\n"
        self._waiting.append(line)
        self._waiting_bytes += len(line)

    async def run(self) -> None:
        """Write until cancelled; then write what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                await asyncio.to_thread(self._write, self._take())
        finally:
            self._write(self._take())
            if self._file:
                self._file.close()

    def _private(self, record: OutboxRecord | FeedbackRecord) -> OutboxRecord | FeedbackRecord:
        if isinstance(record, FeedbackRecord):
            return replace(record, comment=self._hidden(record.comment), user=self._hidden(record.user))
        answers = [
            replace(item, prompt_text=self._hidden(item.prompt_text), output=self._hidden(item.output))
            for item in record.answers
        ]
        hidden = self._hidden(record.error)
        return replace(record, inputs=self._hidden(record.inputs), answers=answers, error=hidden)

    def _hidden(self, value: Any) -> Any:
        if not value:
            return value
        if self._content == "drop":
            return "" if isinstance(value, str) else None
        if self._content == "hash":
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
        return self._redact(value)

    def _take(self) -> list[bytes]:
        """What has gathered. Called in the thread of `put`: swapped in another, a record could fall between."""
        lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return lines

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        try:
            if self._file is None or self._size > ROTATE_BYTES:
                self._rotate()
            if self._taken() > self._cap:
                self.dropped += len(lines)
                return
            self._append(b"".join(lines))
            self.written += len(lines)
        except OSError as error:  # a full disk, say: what waits is bounded, and tried again
            self._waiting[:0] = lines
            self._waiting_bytes += sum(map(len, lines))
            sys.stderr.write(f"fledge: the outbox cannot be written: {error}\n")

    def _append(self, content: bytes) -> None:
        """All of it or nothing: half a line would be taken for the start of the next."""
        try:
            left = content
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
            self._size += len(content)
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            raise

    def _rotate(self) -> None:
        if self._file:
            self._file.close()
            self._file, self._number = None, self._number + 1
        path = self._folder / f"outbox-{self._number:06}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        self._file = open(os.open(path, flags, 0o600), "ab", buffering=0)  # noqa: SIM115
        self._size = 0

    def _taken(self) -> int:
        return sum(path.stat().st_size for path in self._files())

    def _files(self) -> list[Path]:
        return list(self._folder.glob("outbox-*.jsonl"))
