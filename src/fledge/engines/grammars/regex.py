"""Regular expressions as expressions of a grammar, for whole answers and for the strings of a JSON schema."""

import importlib
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from fledge.core.errors import StructureError
from fledge.engines.grammars.expressions import (
    ESCAPES,
    EVERYTHING,
    Ranges,
    Shape,
    ShapeTree,
    TooManyBranchesError,
    alternatives,
    character_set,
    contains,
    literal,
    repeat,
    sequence,
    union,
    without,
)

_parser: Any = importlib.import_module("re._parser")
_constants: Any = importlib.import_module("re._constants")

MAX_PATTERN = 2_000
MAX_SHAPES = 500
MAX_REPEATS = 50
LINE_BREAKS: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D)]
WHITE_SPACE: Ranges = [(0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20)]
ALL = union(EVERYTHING, WHITE_SPACE)
_DIGITS: Ranges = [(0x30, 0x39)]
_LETTERS: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_CATEGORIES: dict[Any, Ranges] = {
    _constants.CATEGORY_DIGIT: _DIGITS,
    _constants.CATEGORY_NOT_DIGIT: without(ALL, _DIGITS),
    _constants.CATEGORY_WORD: _LETTERS,
    _constants.CATEGORY_NOT_WORD: without(ALL, _LETTERS),
    _constants.CATEGORY_SPACE: WHITE_SPACE,
    _constants.CATEGORY_NOT_SPACE: without(ALL, WHITE_SPACE),
}
_NAMES = {
    _constants.ASSERT: "look-ahead and look-behind",
    _constants.ASSERT_NOT: "look-ahead and look-behind",
    _constants.GROUPREF: "a reference to a group",
    _constants.GROUPREF_EXISTS: "a reference to a group",
    _constants.AT: "an anchor within the pattern",
    _constants.ATOMIC_GROUP: "an atomic group",
    _constants.POSSESSIVE_REPEAT: "a possessive repetition",
}

ToExpression = Callable[[Ranges], str]


def json_characters(ranges: Ranges) -> str:
    """Return the expression of one character of a JSON string within `ranges`, escaped where JSON needs it."""
    plain = without(ranges, [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])
    escaped = [literal(text) for character, text in ESCAPES.items() if contains(ranges, character)]
    return alternatives([*([character_set(plain)] if plain else []), *escaped])


def whole_match(pattern: str) -> str:
    """Return the expression of the texts that a regular expression matches from start to end.

    Raises `StructureError` for an invalid pattern, and for parts that no grammar can enforce.
    """
    return _union([body for _, body, _ in _branches(pattern)], character_set)


def search_in_json(pattern: str) -> str:
    """Return the expression of the content of JSON strings in which a schema's `pattern` is found. Raises as
    `whole_match` does."""
    anything, branches = repeat(json_characters(ALL), 0, None), _branches(pattern)
    if all(starts and ends for starts, _, ends in branches):
        return _union([body for _, body, _ in branches], json_characters)
    return alternatives(
        sequence(["" if starts else anything, _convert(body, json_characters), "" if ends else anything])
        for starts, body, ends in branches
    )


def match_lengths(pattern: str) -> tuple[int, float]:
    """Return the least and greatest number of characters of a text in which a valid pattern is found."""
    anchored = all(starts and ends for starts, _, ends in _branches(pattern))
    shortest, longest = _parser.parse(pattern).getwidth()
    return int(shortest), int(longest) if anchored and longest < _constants.MAXREPEAT else math.inf


def _branches(pattern: str) -> list[tuple[bool, list[Any], bool]]:
    """Return the top-level alternatives of a pattern, each with whether it is anchored at its start and end."""
    if len(pattern) > MAX_PATTERN:
        raise StructureError(f"the pattern has {len(pattern)} characters; at most {MAX_PATTERN}")
    try:
        with warnings.catch_warnings(action="ignore"):
            parsed = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise StructureError(f"invalid pattern {pattern[:100]!r}: {error}") from None
    if parsed.state.flags & (re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE):
        raise StructureError(f"the pattern {pattern[:100]!r} has flags, which are not supported")
    items = list(parsed)
    bodies = [items]
    if items and items[-1][0] is _constants.BRANCH:  # after what all alternatives start with
        bodies = [[*items[:-1], *body] for body in items[-1][1][1]]
    return [_strip_anchors(body) for body in bodies]


def _strip_anchors(body: list[Any]) -> tuple[bool, list[Any], bool]:
    starts = bool(body) and body[0] in (
        (_constants.AT, _constants.AT_BEGINNING),
        (_constants.AT, _constants.AT_BEGINNING_STRING),
    )
    body = body[1:] if starts else body
    ends = bool(body) and body[-1] in ((_constants.AT, _constants.AT_END), (_constants.AT, _constants.AT_END_STRING))
    return starts, body[:-1] if ends else body, ends


def _union(bodies: Sequence[Any], show: ToExpression) -> str:
    """Return the expression of several alternatives, as a tree if they are limited and not too many."""
    shapes: set[Shape] = set()
    for body in bodies:
        found = _shapes(body) if len(bodies) > 1 else None
        if found is None or len(shapes) > MAX_SHAPES:
            return alternatives(_convert(body, show) for body in bodies)
        shapes |= found
    try:
        return alternatives([f"({ShapeTree(show).expression(frozenset(shapes))})"])
    except TooManyBranchesError:
        return alternatives(_convert(body, show) for body in bodies)


def _shapes(items: Any) -> set[Shape] | None:
    """Return the shapes of the texts that match, None if they are unlimited or too many."""
    found: set[Shape] = {()}
    for kind, value in items:
        own: set[Shape] | None
        if kind in _SETS:
            own = {(tuple(_SETS[kind](value)),)}
        elif kind is _constants.SUBPATTERN and not value[1] and not value[2]:
            own = _shapes(value[3])
        elif kind is _constants.BRANCH:
            parts = [_shapes(body) for body in value[1]]
            own = None if None in parts else {shape for part in parts if part for shape in part}
        elif kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT) and value[1] <= MAX_REPEATS:
            once = _shapes(value[2])
            own = None if once is None else _repeat_shapes(once, value[0], value[1])
        else:
            return None
        if own is None or len(own) * len(found) > MAX_SHAPES:
            return None
        found = {(*before, *after) for before in found for after in own}
    return found


def _repeat_shapes(once: set[Shape], least: int, most: int) -> set[Shape] | None:
    found: set[Shape] = set()
    current: set[Shape] = {()}
    for count in range(most + 1):
        found |= current if count >= least else set()
        if len(current) * len(once) > MAX_SHAPES or len(found) > MAX_SHAPES:
            return None
        current = {(*before, *after) for before in current for after in once}
    return found


def _convert(items: Any, show: ToExpression) -> str:
    return sequence(_convert_item(kind, value, show) for kind, value in items)


def _convert_item(kind: Any, value: Any, show: ToExpression) -> str:
    if kind in _SETS:
        return show(_SETS[kind](value))
    if kind is _constants.BRANCH:
        return _union(value[1], show)
    if kind is _constants.SUBPATTERN:
        _, added, removed, body = value
        if added or removed:
            raise StructureError("flags within a pattern are not supported")
        return alternatives([f"({_convert(body, show)})"])
    if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
        least, most, body = value
        return repeat(_convert(body, show), least, None if most is _constants.MAXREPEAT else most)
    raise StructureError(f"{_NAMES.get(kind, str(kind).lower())} is not supported in a pattern")


def _single(code: int) -> Ranges:
    if not contains(ALL, chr(code)):
        raise StructureError(f"the character U+{code:04X} is not supported in a pattern")
    return [(code, code)]


def _read_set(items: Any) -> Ranges:
    negated = items[0][0] is _constants.NEGATE
    found: list[Ranges] = []
    for kind, value in items[1:] if negated else items:
        if kind is _constants.LITERAL:
            found.append([(value, value)])
        elif kind is _constants.RANGE:
            found.append([value])
        else:
            found.append(_CATEGORIES[value])
    ranges = union(*found)
    kept = without(ALL, ranges) if negated else without(ranges, without([(0, 0x10FFFF)], ALL))
    if not kept:
        raise StructureError("a set of characters in the pattern is empty")
    return kept


# Parts that match one character, and the set of it.
_SETS: dict[Any, Callable[[Any], Ranges]] = {
    _constants.LITERAL: _single,
    _constants.NOT_LITERAL: lambda code: without(ALL, [(code, code)]),
    _constants.ANY: lambda _: without(ALL, LINE_BREAKS),
    _constants.IN: _read_set,
}
