import numpy as np
import pytest

from fledge.comparison.guards import check_guard, read_guard
from fledge.comparison.statistics import PairedSample
from fledge.core.errors import InputError


def _sample(a: float, b: float, spread: float = 0.1, count: int = 80) -> PairedSample:
    rng = np.random.default_rng(0)
    return PairedSample(a + rng.normal(0, spread, count), b + rng.normal(0, spread, count))


def test_read_guards() -> None:
    guard = read_guard(" latency_s <= +10% ")
    assert (guard.metric, guard.most, guard.change, guard.relative) == ("latency_s", True, 0.1, True)
    guard = read_guard("token_f1>=-0.02")
    assert (guard.metric, guard.most, guard.change, guard.relative) == ("token_f1", False, -0.02, False)


@pytest.mark.parametrize("text", ["latency_s<=0.5", "latency_s<+10%", "latency_s", "<=+10%", "a<=+x", "", "a<=+1,5"])
def test_invalid_guards_are_rejected(text: str) -> None:
    with pytest.raises(InputError, match="not a change against the baseline"):
        read_guard(text)


@pytest.mark.parametrize("text", ["latency_s<=-10%", "token_f1>=+0.02"])
def test_a_guard_cannot_require_a_gain(text: str) -> None:
    with pytest.raises(InputError, match="requires a gain"):
        read_guard(text)


def test_a_guard_passes_only_if_significant() -> None:
    assert check_guard(read_guard("x<=+10%"), _sample(1.0, 1.0), 0.05).passed
    assert not check_guard(read_guard("x<=+10%"), _sample(1.09, 1.0), 0.05).passed  # below, but not shown to be
    assert not check_guard(read_guard("x<=+10%"), _sample(1.3, 1.0), 0.05).passed
    assert check_guard(read_guard("x>=-0.1"), _sample(1.0, 1.0), 0.05).passed
    assert not check_guard(read_guard("x>=-0.1"), _sample(0.8, 1.0), 0.05).passed


def test_one_question_passes_no_guard() -> None:
    result = check_guard(read_guard("x<=+10%"), PairedSample(np.array([0.1]), np.array([5.0])), 0.05)
    assert (result.passed, result.p) == (False, 1.0)


def test_percentage_is_relative_to_the_baseline_mean() -> None:
    """A metric far from zero: 5 % of 100 is 5."""
    assert check_guard(read_guard("x<=+5%"), _sample(103.0, 100.0, 1.0), 0.05).passed
    assert not check_guard(read_guard("x<=+5%"), _sample(107.0, 100.0, 1.0), 0.05).passed
