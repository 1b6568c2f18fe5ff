"""Numbers within bounds, as expressions of a grammar."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, floor

from fledge.core.errors import StructureError
from fledge.engines.grammars.expressions import ShapeTree, character_set

DIGITS = 15  # of a number without bounds: every one is exact as a double
DECIMALS = 4
MAX_DIGITS = 30
INTEGER = f'"-"? ("0" | [1-9] [0-9]{{0,{DIGITS - 1}}})'
NUMBER = f'{INTEGER} ("." [0-9]{{1,{DIGITS}}})? ([eE] [+-]? [0-9]{{1,2}})?'

Characters = tuple[str, ...]
"""Texts of equal length: at each place any of these characters, which follow each other."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number, None for none; each may be excluded."""

    low: Decimal | None = None
    high: Decimal | None = None
    without_low: bool = False
    without_high: bool = False

    def integers(self, scale: int = 1) -> tuple[int | None, int | None]:
        """Return the least and greatest integer within the bounds, which are multiplied by `scale`."""
        low = high = None
        if self.low is not None:
            exact = self.low * scale
            low = ceil(exact) + (self.without_low and exact == ceil(exact))
        if self.high is not None:
            exact = self.high * scale
            high = floor(exact) - (self.without_high and exact == floor(exact))
        return low, high


def integer_within(bounds: Bounds) -> str:
    """Return the expression of the integers within the bounds. Raises `StructureError` if there are none."""
    texts = set(_numbers(*bounds.integers(), 0))
    if not texts:
        raise StructureError(f"no integer is {_describe(bounds)}")
    return _merge(texts)


def number_within(bounds: Bounds) -> str:
    """Return the expression of numbers within the bounds: integers, and decimals with up to `DECIMALS` digits, or as
    many as the bounds have. Raises `StructureError` if there are none."""
    digits = [-int(bound.as_tuple().exponent) for bound in (bounds.low, bounds.high) if bound is not None]
    texts = {
        text
        for places in range(max([DECIMALS, *digits]) + 1)
        for text in _numbers(*bounds.integers(10**places), places)
    }
    if not texts:
        raise StructureError(f"no number is {_describe(bounds)}")
    return _merge(texts)


def _describe(bounds: Bounds) -> str:
    low = "" if bounds.low is None else f"{'above' if bounds.without_low else 'at least'} {bounds.low}"
    high = "" if bounds.high is None else f"{'below' if bounds.without_high else 'at most'} {bounds.high}"
    return " and ".join(filter(None, (low, high)))


def _merge(texts: set[Characters]) -> str:
    shapes = {tuple(((ord(part[0]), ord(part[-1])),) for part in text) for text in texts}
    return ShapeTree(character_set).expression(frozenset(shapes))


def _numbers(low: int | None, high: int | None, places: int) -> Iterator[Characters]:
    """Yield the texts of the integers from `low` to `high`, divided by 10 to the power of `places`."""
    if low is None or low < 0:
        top = -1 if high is None else min(-1, high)
        for text in _magnitudes(-top, None if low is None else -low, places):
            yield ("-", *text)
    if high is None or high >= 0:
        yield from _magnitudes(max(0, low or 0), high, places)


def _magnitudes(low: int, high: int | None, places: int) -> Iterator[Characters]:
    """Yield the texts of the numbers from `low` to `high`, their last `places` digits after a point."""
    if len(str(low)) > MAX_DIGITS or (high is not None and len(str(high)) > MAX_DIGITS):
        raise StructureError(f"bounds of more than {MAX_DIGITS} digits are not supported")
    most = 10 ** max(DIGITS + places, len(str(low)) + 1) - 1 if high is None else high
    while low <= most:
        width = max(len(str(low)), places + 1)  # at least one digit before the point
        top = min(most, 10**width - 1)
        for digits in _spans(str(low).zfill(width), str(top).zfill(width)):
            yield (*digits[: width - places], *((".", *digits[width - places :]) if places else ()))
        low = top + 1


def _spans(low: str, high: str) -> Iterator[Sequence[str]]:
    """Yield digits by place that together match the texts from `low` to `high`, which are equally long."""
    if not low:
        yield ()
        return
    first, last = int(low[0]), int(high[0])
    lowest, highest = "0" * (len(low) - 1), "9" * (len(low) - 1)
    if low[1:] == lowest and high[1:] == highest:
        yield (_digits(first, last), *[_digits(0, 9)] * (len(low) - 1))
    elif first == last:
        for rest in _spans(low[1:], high[1:]):
            yield (low[0], *rest)
    else:
        for rest in _spans(low[1:], highest):
            yield (low[0], *rest)
        if last - first > 1:
            yield (_digits(first + 1, last - 1), *[_digits(0, 9)] * (len(low) - 1))
        for rest in _spans(lowest, high[1:]):
            yield (high[0], *rest)


def _digits(first: int, last: int) -> str:
    return "".join(map(str, range(first, last + 1)))
