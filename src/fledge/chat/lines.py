"""Read entries from lines: a backslash at the end continues a line, and lines of three quotes enclose a block."""

from collections.abc import Callable
from typing import NamedTuple

from fledge.core.errors import InputError

MARK = '"""'

ReadLine = Callable[[bool], str]
"""Gives the next line without its end; told whether it goes on with an entry. Raises `EOFError` after the last one."""


class Entry(NamedTuple):
    """One entry. A block is always a question, even if it starts with a slash."""

    text: str
    is_block: bool = False


def read_entry(read: ReadLine) -> Entry:
    """Return the next entry that is not blank.

    Raises `EOFError` at the end, `InputError` for an unclosed block.
    """
    entry = Entry("")
    while not entry.text.strip():
        line = read(False)
        entry = _block(read) if line.strip() == MARK else Entry(_joined(line, read))
    return entry


def _block(read: ReadLine) -> Entry:
    lines: list[str] = []
    while True:
        try:
            line = read(True)
        except EOFError:
            raise InputError(
                f"a block that began with {MARK} has no end; it was not asked", f"end it with {MARK}"
            ) from None
        if line.strip() == MARK:
            return Entry("\n".join(lines), is_block=True)
        lines.append(line)


def _joined(line: str, read: ReadLine) -> str:
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        try:
            line = read(True)
        except EOFError:
            line = ""
    return "\n".join([*lines, line] if line or not lines else lines)
