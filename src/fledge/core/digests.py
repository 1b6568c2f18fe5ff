"""Digests of files."""

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from fledge.core import state

SETTLED_NS = 100_000_000  # the clock of a file system ticks every 10 ms at most


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class KnownDigests:
    """A cache of SHA-256 digests in `file`.

    A file is read again if its inode, size or change time (ctime) differs. Programs cannot set the change time.
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
        """SHA-256 of a file's content."""
        name, seen, now = str(path.resolve()), path.stat(), time.time_ns()
        stamp = [seen.st_dev, seen.st_ino, seen.st_size, seen.st_ctime_ns]
        known = self._known.get(name)
        found = str(known[-1]) if known and known[:-1] == stamp else file_digest(path)
        if now - seen.st_ctime_ns > SETTLED_NS:  # else a later change could have the same time
            self._new[name] = [*stamp, found]
        return found

    def save(self) -> None:
        """Save the digests of the requested files."""
        if self._new != self._known:
            with contextlib.suppress(OSError):  # a full disk: the files are read again
                state.write_json(self._file, self._new)
