"""Reading the outbox: whole lines, oldest first, from a position."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from fledge.core.errors import FledgeError
from fledge.core.messages import FeedbackRecord, OutboxRecord, Record
from fledge.core.outbox_files import outbox_files

log = logging.getLogger(__name__)

KEPT_FILES = 4  # shipped files that are kept for the monitor

_request = msgspec.json.Decoder(OutboxRecord).decode
_feedback = msgspec.json.Decoder(FeedbackRecord).decode


class RecordRefusedError(FledgeError):
    """MLflow rejects records permanently: retrying would not help."""


class Position(NamedTuple):
    """A file's name, and the number of its bytes that have been read."""

    file: str = ""
    offset: int = 0


class Batch(NamedTuple):
    """Records, the position after them, and the number of lines including invalid ones."""

    records: list[Record]
    next: Position
    lines: int = 0


class LineCount:
    """Counts the lines after a position, reading each byte once."""

    def __init__(self, folder: Path, position: Position) -> None:
        self._folder = folder
        self._seen = position
        self._lines = 0

    def count(self) -> int:
        for path in outbox_files(self._folder):
            if path.name < self._seen.file:
                continue
            offset = self._seen.offset if path.name == self._seen.file else 0
            with path.open("rb") as file:
                file.seek(offset)
                while block := file.read(1 << 20):
                    self._lines += block.count(b"\n")
                    offset += len(block)
            self._seen = Position(path.name, offset)
        return self._lines

    def advance(self, lines: int) -> None:
        """Move the position past `lines`."""
        self._lines -= lines


def read_batch(folder: Path, position: Position, most: int) -> Batch:
    """Return up to `most` records after a position."""
    files = [path for path in outbox_files(folder) if path.name >= position.file]
    for number, path in enumerate(files):
        offset = position.offset if path.name == position.file else 0
        with path.open("rb") as file:
            file.seek(offset)
            lines = [line for line in (file.readline() for _ in range(most)) if line.endswith(b"\n")]
        if lines or number == len(files) - 1:
            return Batch(list(_decode(lines)), Position(path.name, offset + sum(map(len, lines))), len(lines))
    return Batch([], position)


def read_outbox(folder: Path) -> list[OutboxRecord]:
    """Return all requests in an outbox, oldest first."""
    found: list[OutboxRecord] = []
    for path in outbox_files(folder):
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        found += [record for record in _decode(lines) if isinstance(record, OutboxRecord)]
    return found


def waiting_bytes(folder: Path, position: Position) -> int:
    """Return the number of bytes after a position."""
    sizes = {path.name: path.stat().st_size for path in outbox_files(folder) if path.name >= position.file}
    return sum(sizes.values()) - min(position.offset, sizes.get(position.file, 0))


def remove_shipped(folder: Path, position: Position, *, keep: int = KEPT_FILES) -> None:
    """Delete the files before a position, except the latest `keep`."""
    shipped = [path for path in outbox_files(folder) if path.name < position.file]
    for path in shipped[: max(0, len(shipped) - keep)]:
        path.unlink(missing_ok=True)


def _decode(lines: list[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            yield _feedback(line) if line.startswith(b'{"feedback_id"') else _request(line)
        except msgspec.DecodeError:
            log.warning("skipped an invalid line in the outbox")
