"""Read entries of one or several lines: a backslash continues a line, and two lines of three quotes enclose a block."""

from collections.abc import Callable
from typing import NamedTuple

from fledge.core.errors import InputError

MARK = '"""'

ReadLine = Callable[[bool], str]
"""Takes whether the line continues an entry; returns the line without its end. Raises `EOFError` after the last one."""


class Entry(NamedTuple):
    """One input of the user. A block is always a question, even if it starts with a slash."""

    text: str
    is_block: bool = False


def read_entry(read: ReadLine) -> Entry:
    """Return the next entry that is not blank.

    Raises `EOFError` at the end of the input, `InputError` for a block without an end.
    """
    entry = Entry("")
    while not entry.text.strip():
        line = read(False)
        entry = _read_block(read) if line.strip() == MARK else Entry(_join_continued(line, read))
    return entry


def _read_block(read: ReadLine) -> Entry:
    lines: list[str] = []
    while True:
        try:
            line = read(True)
        except EOFError:
            raise InputError(f"a block that starts with {MARK} has no end", f"end it with a line of {MARK}") from None
        if line.strip() == MARK:
            return Entry("\n".join(lines), is_block=True)
        lines.append(line)


def _join_continued(line: str, read: ReadLine) -> str:
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        try:
            line = read(True)
        except EOFError:
            line = ""
    return "\n".join([*lines, line] if line or not lines else lines)
