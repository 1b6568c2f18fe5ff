"""Helpers for texts."""

import json
import math
from collections.abc import Iterator

from fledge.core.errors import InputError


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 answer`, `1,200 answers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cell_text(value: object) -> str:
    """Return a cell of a table as text: a number or boolean as in JSON.

    Raises `InputError` with the second half of a sentence, after the cell's name: it is empty, or has another type.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        value = ""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if not isinstance(value, str):
        names = {"list": "a list", "tuple": "a list", "dict": "an object"}
        kind = names.get(type(value).__name__, type(value).__name__)
        raise InputError(f"must be a text or a number, not {kind}")
    if not value.strip():
        raise InputError("must be a text that is not empty")
    return value


def strip_stream(pieces: Iterator[str]) -> Iterator[str]:
    """Yield the pieces of a text without leading and trailing white space."""
    started, held = False, ""
    for piece in pieces:
        text = held + piece if started else piece.lstrip()
        started = started or bool(text)
        kept = text.rstrip()
        held = text[len(kept) :]
        if kept:
            yield kept
    if not started:
        yield ""
