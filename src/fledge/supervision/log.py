"""The endpoint's log: lines of all its processes, in one file that is rotated, or on stderr."""

import contextlib
import json
import os
import time
from pathlib import Path

from fledge.core import state

ROTATE_BYTES = 10_000_000
KEPT = 5
STDERR = 2


class Log:
    """Writes lines, plain (`TIME ROLE: TEXT`) or as JSON. Without a file they go to stderr."""

    def __init__(self, path: Path | None, *, as_json: bool) -> None:
        self._path = path
        self._as_json = as_json
        self._unfinished: dict[str, bytes] = {}

    def write(self, role: str, text: str) -> None:
        """One line of one process."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._as_json:
            line = json.dumps({"time": moment, "role": role, "message": text})
        else:
            line = f"{moment} {role}: {text}"
        with contextlib.suppress(OSError):  # a full disk, or a reader that has gone, ends no endpoint
            if self._path is None:
                os.write(STDERR, f"{line}\n".encode())
                return
            self._rotate(self._path)
            with state.open_to_append(self._path) as file:
                file.write(f"{line}\n".encode())

    def feed(self, role: str, content: bytes) -> None:
        """Bytes as a process wrote them, cut anywhere; no bytes are the end of it."""
        *lines, rest = (self._unfinished.pop(role, b"") + content).split(b"\n")
        if not content and rest:
            lines.append(rest)
        elif rest:
            self._unfinished[role] = rest
        for line in lines:
            text = line.decode("utf-8", "replace").removeprefix("fledge: ").rstrip()
            if text:
                self.write(role, text)

    def _rotate(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size < ROTATE_BYTES:
            return
        for number in range(KEPT - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))


def message_of(line: str) -> str:
    """What a line of the log says, without when and who."""
    if line.startswith("{"):
        try:
            return str(json.loads(line)["message"])
        except (ValueError, KeyError, TypeError):
            return line
    head, _, text = line.partition(": ")
    return text if head[:1].isdigit() and "T" in head[:20] else line
