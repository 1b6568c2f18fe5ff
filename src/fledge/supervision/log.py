"""The endpoint's log: lines of all its processes, in a rotated file or on stderr."""

import json
import logging
import re
import time
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from fledge.core import state

ROTATE_BYTES = 10_000_000
KEPT = 5
_LEVELLED = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL): (.*)", re.DOTALL)


class Log:
    """Writes lines to a file or stderr, as JSON or plain: `TIME ROLE: TEXT`; a warning has its level before TEXT."""

    def __init__(self, path: Path | None, *, as_json: bool) -> None:
        self._handler: logging.Handler = _StderrHandler() if path is None else _FileHandler(path)
        self._handler.setFormatter(_JsonFormatter() if as_json else _PlainFormatter())
        self._unfinished: dict[str, bytes] = {}

    def write(self, role: str, text: str, level: int = logging.INFO) -> None:
        """Write one line of one process."""
        self._handler.handle(logging.LogRecord(role, level, "", 0, text, None, None))

    def close(self) -> None:
        self._handler.close()

    def feed(self, role: str, content: bytes) -> None:
        """Write a chunk of a process's output, split at any byte; an empty chunk is the end."""
        *lines, rest = (self._unfinished.pop(role, b"") + content).split(b"\n")
        if not content and rest:
            lines.append(rest)
        elif rest:
            self._unfinished[role] = rest
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            if found := _LEVELLED.fullmatch(text):
                self.write(role, found[2], logging.getLevelNamesMapping()[found[1]])
            elif text:
                self.write(role, text)


def message_of(line: str) -> str:
    """Return the message of a log line, without time and role."""
    if line.startswith("{"):
        try:
            return str(json.loads(line)["message"])
        except (ValueError, KeyError, TypeError):
            return line
    head, _, text = line.partition(": ")
    return text if head[:1].isdigit() and "T" in head[:20] else line


class _Handler(logging.Handler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a full disk or a closed pipe: they must not end the endpoint."""


class _StderrHandler(_Handler, logging.StreamHandler[TextIO]):
    """Writes to stderr as it was at the start."""


class _FileHandler(_Handler, RotatingFileHandler):
    """Writes to a rotated file of mode 0600."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=ROTATE_BYTES, backupCount=KEPT, encoding="utf-8", delay=True)

    def _open(self) -> TextIOWrapper:
        return TextIOWrapper(state.open_to_append(Path(self.baseFilename)), encoding="utf-8")


def _format_timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        return f"{_format_timestamp(record)} {record.name}: {level}{record.msg}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        about = {"time": _format_timestamp(record), "role": record.name, "level": record.levelname.lower()}
        return json.dumps({**about, "message": record.msg})
