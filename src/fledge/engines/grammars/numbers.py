"""Numbers within bounds, as expressions of a grammar."""

from collections.abc import Iterator
from decimal import Decimal
from math import ceil, floor

from fledge.core.errors import StructureError
from fledge.engines.grammars.expressions import alternatives, repeat, sequence

DIGITS = 15  # of a number without bounds: every one is exact as a double
DECIMALS = 4
MAX_DIGITS = 30
_DIGIT = "[0-9]"
_FRACTION = f'("." {_DIGIT}{{1,{DIGITS}}})?'
INTEGER = f'"-"? ("0" | [1-9] {_DIGIT}{{0,{DIGITS - 1}}})'
NUMBER = f"{INTEGER} {_FRACTION} ([eE] [+-]? {_DIGIT}{{1,2}})?"


class Bounds:
    """Bounds of a number, None for none; each may be excluded."""

    def __init__(
        self,
        low: Decimal | None = None,
        high: Decimal | None = None,
        *,
        without_low: bool = False,
        without_high: bool = False,
    ) -> None:
        self.low, self.high, self.without_low, self.without_high = low, high, without_low, without_high

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
    low, high = bounds.integers()
    options = list(_integers(low, high))
    if not options:
        raise StructureError(f"no integer is {_describe(bounds)}")
    return alternatives(options)


def number_within(bounds: Bounds) -> str:
    """Return the expression of numbers within the bounds: integers, and decimals with up to `DECIMALS` digits, or as
    many as the bounds have. Raises `StructureError` if there are none."""
    digits = [-int(bound.as_tuple().exponent) for bound in (bounds.low, bounds.high) if bound is not None]
    options = list(_integers(*bounds.integers()))
    for places in range(1, max([DECIMALS, *digits]) + 1):
        options += _decimals(*bounds.integers(10**places), places)
    if not options:
        raise StructureError(f"no number is {_describe(bounds)}")
    return alternatives(options)


def _describe(bounds: Bounds) -> str:
    low = "" if bounds.low is None else f"{'above' if bounds.without_low else 'at least'} {bounds.low}"
    high = "" if bounds.high is None else f"{'below' if bounds.without_high else 'at most'} {bounds.high}"
    return " and ".join(filter(None, (low, high)))


def _integers(low: int | None, high: int | None) -> Iterator[str]:
    """Yield the expressions of the integers from `low` to `high`."""
    if low is None or low < 0:
        top = -1 if high is None else min(-1, high)
        for option in _magnitudes(-top, None if low is None else -low):
            yield sequence(['"-"', option])
    if high is None or high >= 0:
        yield from _magnitudes(max(0, low or 0), high)


def _decimals(low: int | None, high: int | None, places: int) -> Iterator[str]:
    """Yield the expressions of the integers from `low` to `high`, divided by 10 to the power of `places`."""
    if low is None or low < 0:
        top = -1 if high is None else min(-1, high)
        for option in _magnitudes(-top, None if low is None else -low, places):
            yield sequence(['"-"', option])
    if high is None or high >= 0:
        yield from _magnitudes(max(0, low or 0), high, places)


def _magnitudes(low: int, high: int | None, places: int = 0) -> Iterator[str]:
    """Yield the expressions of the decimal digits from `low` to `high`, the last `places` after a point."""
    if len(str(low)) > MAX_DIGITS or (high is not None and len(str(high)) > MAX_DIGITS):
        raise StructureError(f"bounds of more than {MAX_DIGITS} digits are not supported")
    while high is None or low <= high:
        width = max(len(str(low)), places + 1)  # at least one digit before the point
        top = 10**width - 1 if high is None else min(high, 10**width - 1)
        for digits in _spans(str(low).zfill(width), str(top).zfill(width)):
            before, after = digits[: width - places], digits[width - places :]
            yield sequence([_join(before), *(['"."', _join(after)] if after else [])])
        low = top + 1
        if high is None:
            longer = repeat(_DIGIT, width - places, max(DIGITS, width - places))
            yield sequence(["[1-9]", longer, *(['"."', repeat(_DIGIT, places, places)] if places else [])])
            return


def _join(digits: list[str]) -> str:
    parts: list[str] = []
    position = 0
    while position < len(digits):
        end = position
        while end < len(digits) and digits[end] == digits[position]:
            end += 1
        parts.append(repeat(digits[position], end - position, end - position))
        position = end
    return sequence(parts)


def _spans(low: str, high: str) -> Iterator[list[str]]:
    """Yield classes of digits that together match the texts from `low` to `high`, which are equally long."""
    if not low:
        yield []
        return
    first, last = low[0], high[0]
    if low[1:].strip("0") == "" and high[1:].strip("9") == "":
        yield [_digits(first, last), *[_DIGIT] * (len(low) - 1)]
        return
    if first == last:
        for rest in _spans(low[1:], high[1:]):
            yield [_digits(first, first), *rest]
        return
    for rest in _spans(low[1:], "9" * (len(low) - 1)):
        yield [_digits(first, first), *rest]
    if int(last) - int(first) > 1:
        yield [_digits(str(int(first) + 1), str(int(last) - 1)), *[_DIGIT] * (len(low) - 1)]
    for rest in _spans("0" * (len(low) - 1), high[1:]):
        yield [_digits(last, last), *rest]


def _digits(first: str, last: str) -> str:
    return f'"{first}"' if first == last else f"[{first}-{last}]"
