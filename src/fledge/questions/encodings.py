"""Encoding of a question file: UTF-8, UTF-16 with a byte order mark, or Windows-1252."""

import codecs
import re
from typing import NamedTuple

from fledge.questions.rows import Problem, ReadingNote

WESTERN = "cp1252"  # Latin-1, and the quotes and dashes that Windows adds
MOST_ACCENTS = 0.25  # per ASCII letter: Western languages have fewer, other scripts decoded as Western far more


class Decoded(NamedTuple):
    """A file's text, notes on what was guessed, and the lines that could not be decoded."""

    text: str
    notes: tuple[ReadingNote, ...] = ()
    problems: tuple[Problem, ...] = ()


def decode(content: bytes) -> Decoded:
    """Decode a file, without its byte order mark."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _decode_utf16(content)
    if _is_utf8(content):
        return Decoded(content.decode("utf-8-sig"))
    lines = content.split(b"\n")
    bad = [number for number, line in enumerate(lines) if not _is_utf8(line)]
    western = _decode_western(content)
    if western is not None and not any(not line.isascii() and _is_utf8(line) for line in lines):
        shown = re.search(r"\w{,20}[^\x00-\x7f]\w{,20}", western.split("\n")[bad[0]])
        sample = f", as {shown[0]!r} on line {bad[0] + 1}" if shown else ""
        return Decoded(western, (ReadingNote("encoding", f"not UTF-8, read as Windows-1252 (Latin-1){sample}"),))
    problems = [Problem("encoding", number + 1, "not UTF-8", "save the file as UTF-8") for number in bad]
    return Decoded(content.decode("utf-8-sig", "replace"), problems=tuple(problems))


def _decode_utf16(content: bytes) -> Decoded:
    note = ReadingNote("encoding", "read as UTF-16")
    try:
        return Decoded(content.decode("utf-16"), (note,))
    except UnicodeDecodeError as error:
        text = content.decode("utf-16", "replace")
        line = content[: error.start].decode("utf-16", "replace").count("\n") + 1
        return Decoded(text, (note,), (Problem("encoding", line, "damaged UTF-16", "save the file as UTF-8"),))


def _decode_western(content: bytes) -> str | None:
    """Decode as Windows-1252, or return None if it seems to be another encoding."""
    accents = sum(byte > 0x7F for byte in content)
    letters = len(re.findall(rb"[A-Za-z]", content))
    try:
        return content.decode(WESTERN) if accents <= MOST_ACCENTS * letters else None
    except UnicodeDecodeError:
        return None


def _is_utf8(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True
