"""Expressions of grammars: literals, sets of characters, alternatives and repetitions, as text."""

from collections.abc import Iterable, Sequence

MAX_CHARACTERS = 200_000  # of a grammar
# Characters by code point, without surrogates.
EVERYTHING = ((0x20, 0xD7FF), (0xE000, 0x10FFFF))
CONTROLS = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}

Ranges = Sequence[tuple[int, int]]
"""A set of characters: first and last code points."""


def literal(text: str) -> str:
    """Return the expression of exactly this text."""
    return '"' + "".join(CONTROLS.get(character, character) for character in text) + '"'


def character_set(ranges: Ranges) -> str:
    """Return the expression of one character within `ranges`."""
    return f"[{''.join(_span(low, high) for low, high in ranges)}]"


def _span(low: int, high: int) -> str:
    return _escape(low) if low == high else f"{_escape(low)}-{_escape(high)}"


def _escape(code: int) -> str:
    character = chr(code)
    if character in "\n\r\t":
        return CONTROLS[character]
    return f"\\u{code:04x}" if character in '"\\[]^-' or code < 0x20 else character


def sequence(parts: Iterable[str]) -> str:
    """Return the expression of all parts, one after the other; a part with alternatives must be in brackets."""
    return " ".join(part for part in parts if part) or '""'


def alternatives(options: Iterable[str]) -> str:
    """Return the expression of any of the options."""
    distinct = list(dict.fromkeys(options))
    return distinct[0] if len(distinct) == 1 else f"({' | '.join(distinct)})"


def repeat(part: str, least: int, most: int | None) -> str:
    """Return the expression of `least` to `most` repetitions (None for no maximum)."""
    if most == 0:
        return '""'
    if (least, most) == (1, 1):
        return part
    suffixes: dict[tuple[int, int | None], str] = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    suffix = suffixes.get((least, most), f"{{{least},{'' if most is None else most}}}")
    return f"({part}){suffix}"


def union(*sets: Ranges) -> Ranges:
    """Return the characters that are in any of the sets."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(item for ranges in sets for item in ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged


def without(ranges: Ranges, removed: Ranges) -> Ranges:
    """Return the characters of `ranges` that are not in `removed`."""
    kept = list(ranges)
    for first, last in removed:
        kept = [
            part
            for low, high in kept
            for part in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if part[0] <= part[1]
        ]
    return kept


def contains(ranges: Ranges, character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in ranges)
