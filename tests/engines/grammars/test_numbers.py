"""Bounds of numbers, checked number by number."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import StructureError
from fledge.engines.grammars.numbers import Bounds, integer_within, number_within

NUMBERS = st.decimals(-2000, 2000, places=2, allow_nan=False)


def as_pattern(expression: str) -> re.Pattern[str]:
    """Return a regular expression with the meaning of the grammar's expression."""
    spaced = re.sub(r'"([^"]*)"', lambda found: re.escape(found[1]), expression)
    return re.compile(spaced.replace(" ", ""))


@given(low=st.integers(-1500, 1500), size=st.integers(0, 1500))
def test_integers_within_bounds_are_exactly_those(low: int, size: int) -> None:
    pattern = as_pattern(integer_within(Bounds(Decimal(low), Decimal(low + size))))
    for number in (low - 11, low - 1, low, low + size // 2, low + size, low + size + 1, low + size + 110):
        assert bool(pattern.fullmatch(str(number))) == (low <= number <= low + size), number


@given(low=NUMBERS, high=NUMBERS, probe=NUMBERS, excluded=st.booleans())
def test_decimals_within_bounds_are_exactly_those(low: Decimal, high: Decimal, probe: Decimal, excluded: bool) -> None:
    low, high = sorted((low, high))
    bounds = Bounds(low, high, without_low=excluded, without_high=excluded)
    try:
        pattern = as_pattern(number_within(bounds))
    except StructureError:
        assert excluded
        assert high - low < Decimal("0.0002")
        return
    for number in (low, high, (low + high) / 2, probe, low - 1, high + 1):
        text = f"{number:.2f}"
        if Decimal(text) != 0:  # -0.00 is not among them
            inside = low < Decimal(text) < high if excluded else low <= Decimal(text) <= high
            assert bool(pattern.fullmatch(text)) == inside, text


@pytest.mark.parametrize(("low", "high"), [(7, None), (-7, None), (None, 7), (None, -7)])
def test_numbers_with_one_bound_go_on_to_the_other_side(low: int | None, high: int | None) -> None:
    bounds = Bounds(None if low is None else Decimal(low), None if high is None else Decimal(high))
    pattern, integers = as_pattern(number_within(bounds)), as_pattern(integer_within(bounds))
    for number in (-123456789012, -8, -7, -6, 0, 6, 7, 8, 123456789012):
        expected = (low is None or number >= low) and (high is None or number <= high)
        assert bool(integers.fullmatch(str(number))) == expected
        assert bool(pattern.fullmatch(f"{number}.0")) == expected or number == 0


def test_bounds_of_too_many_digits_are_refused() -> None:
    with pytest.raises(StructureError, match="more than 30 digits"):
        integer_within(Bounds(Decimal(10) ** 40, None))
