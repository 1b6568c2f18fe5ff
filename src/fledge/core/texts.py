"""Helpers for texts."""

from collections.abc import Iterator


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 answer`, `1,200 answers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
