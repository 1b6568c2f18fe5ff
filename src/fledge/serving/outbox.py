"""The outbox: append-only files of the endpoint's requests and feedback, which the recorder ships to MLflow."""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fledge.core import state
from fledge.core.messages import FeedbackRecord, Record
from fledge.core.outbox_files import outbox_file, outbox_files
from fledge.core.types import Content
from fledge.serving.redaction import RedactionError, Redactor

log = logging.getLogger(__name__)

FLUSH_S = 0.5
ROTATE_BYTES = 16 << 20
PARTS = 4  # minimum number of files in a full outbox, since only whole files are removed
DROPPED = "[dropped]"  # replaces every text of a request that could not be redacted
WAITING_BYTES = 32 << 20  # in memory, for example while the disk is full

_encode = msgspec.json.Encoder().encode


class _WriteResult(NamedTuple):
    """Numbers of written and dropped lines, and the lines to write again."""

    written: int = 0
    dropped: int = 0
    kept: Sequence[bytes] = ()
    error: str = ""


class Outbox:
    """Queues records without blocking. Twice a second, a thread redacts, writes and syncs the queue.

    Files are `outbox-000001.jsonl` and so on; the recorder removes those that it has shipped. Beyond `cap_bytes` on
    disk, or `WAITING_BYTES` in the queue, records are dropped and counted.
    """

    def __init__(self, folder: Path, *, cap_bytes: int, content: Content, redact: Redactor) -> None:
        self._folder = state.ensure(folder)
        self._cap = cap_bytes
        self._rotate_at = min(ROTATE_BYTES, cap_bytes // PARTS)
        self._content = content
        self._redact = redact
        self._waiting: list[Record | bytes] = []
        self._waiting_bytes = 0
        self._error = ""
        numbers = [path.stem.rpartition("-")[2] for path in outbox_files(self._folder)]
        self._number = max((int(number) for number in numbers if number.isdecimal()), default=0) + 1
        self._file: Any = None
        self._size = 0
        self.written = self.dropped = 0

    def put(self, record: Record) -> None:
        """Queue a record. Its texts are redacted, hashed or dropped when it is written."""
        size = len(_encode(record))
        if self._waiting_bytes + size > WAITING_BYTES:
            self.dropped += 1
            return
        self._waiting.append(record)
        self._waiting_bytes += size

    async def run(self) -> None:
        """Write until cancelled, then write the rest."""
        writing: asyncio.Future[_WriteResult] | None = None
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                writing = asyncio.ensure_future(asyncio.to_thread(self._write, self._take()))
                self._apply(await asyncio.shield(writing))
                writing = None
        finally:
            if writing is not None:  # two writing threads would mix their lines
                self._apply(await writing)
            self._apply(self._write(self._take()))
            if self._file:
                self._file.close()

    def _take(self) -> list[Record | bytes]:
        """Empty and return the queue. Runs in the thread of `put`, as `_apply` does, so that no record is lost."""
        records, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return records

    def _apply(self, done: _WriteResult) -> None:
        self.written += done.written
        self.dropped += done.dropped
        self._waiting[:0] = done.kept
        self._waiting_bytes += sum(map(len, done.kept))
        if done.error and not self._error:
            log.warning("cannot write the outbox, retrying: %s", done.error)
        self._error = done.error

    def _write(self, records: Sequence[Record | bytes]) -> _WriteResult:
        if not records:
            return _WriteResult()
        lines = [item if isinstance(item, bytes) else self._encode_line(item) for item in records]
        try:
            if self._file is None or self._size > self._rotate_at:
                self._rotate()  # even when full: otherwise the last file could never be removed
            if self._measure_disk() > self._cap:
                return _WriteResult(dropped=len(lines))
            self._append(b"".join(lines))
        except OSError as error:  # for example a full disk
            return _WriteResult(kept=lines, error=str(error))
        return _WriteResult(written=len(lines))

    def _encode_line(self, record: Record) -> bytes:
        try:
            return _encode(self._protect(record, self._hide)) + b"\n"
        except RedactionError:
            return _encode(self._protect(record, lambda value: DROPPED if value else value)) + b"\n"

    def _protect(self, record: Record, hide: Callable[[Any], Any]) -> Record:
        if isinstance(record, FeedbackRecord):
            value = hide(record.value) if isinstance(record.value, str) else record.value
            return replace(record, value=value, comment=hide(record.comment), user=hide(record.user))
        answers = [
            replace(item, prompt_text=hide(item.prompt_text), output=hide(item.output)) for item in record.answers
        ]
        return replace(record, inputs=hide(record.inputs), answers=answers, error=hide(record.error))

    def _hide(self, value: Any) -> Any:
        if not value:
            return value
        if self._content == "drop":
            return "" if isinstance(value, str) else None
        if self._content == "hash":
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
        return self._redact(value)

    def _append(self, content: bytes) -> None:
        """Write everything or nothing: a partial line would run into the next one."""
        try:
            left = content
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
            self._size += len(content)
        except OSError:
            self._truncate()
            raise

    def _truncate(self) -> None:
        try:
            os.ftruncate(self._file.fileno(), self._size)
        except OSError:  # write nothing after what may be a partial line
            self._close()

    def _close(self) -> None:
        file, self._file, self._number = self._file, None, self._number + 1
        with contextlib.suppress(OSError):
            file.close()

    def _rotate(self) -> None:
        if self._file:
            self._close()
        path = outbox_file(self._folder, self._number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        self._file = open(os.open(path, flags, 0o600), "ab", buffering=0)  # noqa: SIM115
        self._size = 0

    def _measure_disk(self) -> int:
        sizes = 0
        for path in outbox_files(self._folder):
            with contextlib.suppress(FileNotFoundError):  # shipped and removed by the recorder
                sizes += path.stat().st_size
        return sizes
