"""SHA-256 digests of files."""

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from fledge.core import state

STABLE_AFTER_NS = 100_000_000  # file system clocks tick at least every 10 ms


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class KnownDigests:
    """A cache of digests, stored in `file`.

    A file is read again if its device, inode, size or ctime has changed; programs cannot set ctime back.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = None
        self._known: dict[str, list[Any]] = content if isinstance(content, dict) else {}
        self._new: dict[str, list[Any]] = {}

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file's content."""
        name, stat, now = str(path.resolve()), path.stat(), time.time_ns()
        stamp = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns]
        known = self._known.get(name)
        found = str(known[-1]) if known and known[:-1] == stamp else file_digest(path)
        if now - stat.st_ctime_ns > STABLE_AFTER_NS:  # a later change could have the same ctime
            self._new[name] = [*stamp, found]
        return found

    def save(self) -> None:
        """Store the digests that were requested."""
        if self._new != self._known:
            with contextlib.suppress(OSError):  # if the disk is full, the files are read again
                state.write_json(self._file, self._new)
