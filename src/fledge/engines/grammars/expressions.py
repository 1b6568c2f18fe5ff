"""Expressions of grammars: literals, sets of characters, alternatives and repetitions, as text."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

MAX_CHARACTERS = 200_000  # of a grammar
# Characters by code point, without surrogates.
EVERYTHING = ((0x20, 0xD7FF), (0xE000, 0x10FFFF))
# As in JSON strings.
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}

Ranges = Sequence[tuple[int, int]]
"""A set of characters: first and last code points."""

Shape = tuple[tuple[tuple[int, int], ...], ...]
"""Texts of equal length: the set of characters at each place."""

MAX_BRANCHES = 2_000  # of a tree of shapes


# xgrammar takes a letter from U+0080 to U+00FF and a hexadecimal digit after it for one character.
AMBIGUOUS = re.compile("([\x80-\xff])(?=[0-9A-Fa-f])")


def literal(text: str) -> str:
    """Return the expression of exactly this text."""
    escaped = "".join(ESCAPES.get(character, character) for character in text)
    return '"' + AMBIGUOUS.sub(r'\1" "', escaped) + '"'


def character_set(ranges: Ranges) -> str:
    """Return the expression of one character within `ranges`."""
    return f"[{''.join(_span(low, high) for low, high in ranges)}]"


def _span(low: int, high: int) -> str:
    return _escape(low) if low == high else f"{_escape(low)}-{_escape(high)}"


def _escape(code: int) -> str:
    character = chr(code)
    if character in "\n\r\t":
        return ESCAPES[character]
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


class TooManyBranchesError(Exception):
    """The tree of the shapes is too large."""


class ShapeTree:
    """Makes one expression of many shapes, in which the next character always decides which ones are left.

    xgrammar accepts wrong texts where several alternatives start alike.
    """

    def __init__(self, show: Callable[[Ranges], str]) -> None:
        self._show = show
        self._known: dict[frozenset[Shape], str] = {}

    def expression(self, shapes: frozenset[Shape]) -> str:
        """Return the expression of all texts. Raises `TooManyBranchesError`."""
        if shapes not in self._known:
            if len(self._known) >= MAX_BRANCHES:
                raise TooManyBranchesError
            self._known[shapes] = ""  # counts while its parts are made
            self._known[shapes] = self._merge(shapes)
        return self._known[shapes]

    def _merge(self, shapes: frozenset[Shape]) -> str:
        edges = sorted({edge for shape in shapes if shape for low, high in shape[0] for edge in (low, high + 1)})
        starts: dict[frozenset[Shape], list[tuple[int, int]]] = {}
        for low, following in pairwise(edges):
            rest = frozenset(shape[1:] for shape in shapes if shape and contains(shape[0], chr(low)))
            if rest:
                starts.setdefault(rest, []).append((low, following - 1))
        options = [
            sequence([self._show(union(ranges)), "" if rest == {()} else self.expression(rest)])
            for rest, ranges in starts.items()
        ]
        if not options:
            return '""'
        found = alternatives(options)
        return f"({found})?" if () in shapes else found


def any_text(texts: Sequence[str]) -> str:
    """Return the expression of exactly one of the texts."""
    shapes = frozenset(tuple(((ord(character), ord(character)),) for character in text) for text in texts)
    try:
        return ShapeTree(character_set).expression(shapes) if len(shapes) > 1 else literal(texts[0])
    except TooManyBranchesError:
        return alternatives(map(literal, texts))
