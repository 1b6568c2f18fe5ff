import math

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
    with pytest.raises(InputError, match="not a change against the baseline") as caught:
        read_guard(text)
    assert "token_f1>=-0.02" in caught.value.hint


def test_a_guard_may_allow_no_loss() -> None:
    assert read_guard("latency_s<=+0%").change == 0.0


@pytest.mark.parametrize("text", ["latency_s<=-10%", "token_f1>=+0.02"])
def test_a_guard_cannot_require_a_gain(text: str) -> None:
    with pytest.raises(InputError, match="requires a gain") as caught:
        read_guard(text)
    assert "limits a loss" in caught.value.hint


def test_a_guard_passes_only_if_significant() -> None:
    assert check_guard(read_guard("x<=+10%"), _sample(1.0, 1.0), 0.05).passed
    assert not check_guard(read_guard("x<=+10%"), _sample(1.09, 1.0), 0.05).passed  # below, but not shown to be
    assert not check_guard(read_guard("x<=+10%"), _sample(1.3, 1.0), 0.05).passed
    assert check_guard(read_guard("x>=-0.1"), _sample(1.0, 1.0), 0.05).passed
    assert not check_guard(read_guard("x>=-0.1"), _sample(0.8, 1.0), 0.05).passed
    assert check_guard(read_guard("x<=+0.1"), _sample(1.0, 1.0), 0.05).passed
    assert not check_guard(read_guard("x<=+0.1"), _sample(1.2, 1.0), 0.05).passed


def test_result_has_the_difference_to_the_baseline() -> None:
    result = check_guard(read_guard("x<=+10%"), _sample(1.3, 1.0), 0.05)
    assert result.difference == pytest.approx(0.3, abs=0.05)
    assert result.ci[0] < result.difference < result.ci[1]
    assert result.questions == 80


def test_a_guard_on_six_topics_is_a_sign_flip_test() -> None:
    """All six topics keep the limit: one of 64 ways to set their signs is as extreme."""
    seconds = np.linspace(1.0, 1.05, 12)
    sample = PairedSample(seconds, np.ones(12), clusters=np.repeat(np.arange(6), 2))
    for guard in ("x<=+10%", "x<=+0.1"):
        assert check_guard(read_guard(guard), sample, 0.05).p == 1 / 64
        assert not check_guard(read_guard(guard), sample, 1 / 64).passed  # p must be below alpha


def test_a_guard_with_a_heavy_tail_depends_on_the_range_of_the_metric() -> None:
    """Hoeffding's bound: exp(-n (mean / range)**2 / 2) for scores from 0 to 3."""
    seconds = np.array([0.8] * 38 + [1.6, 1.7])
    result = check_guard(read_guard("x<=+10%"), PairedSample(seconds, np.ones(40), bounds=(0.0, 3.0)), 0.05)
    assert result.p == pytest.approx(math.exp(-40 * ((1.1 - seconds.mean()) / 3) ** 2 / 2))


def test_one_question_passes_no_guard() -> None:
    result = check_guard(read_guard("x<=+10%"), PairedSample(np.array([0.1]), np.array([5.0])), 0.05)
    assert (result.passed, result.p) == (False, 1.0)


def test_percentage_is_relative_to_the_baseline_mean() -> None:
    """A metric far from zero: 5 % of 100 is 5."""
    assert check_guard(read_guard("x<=+5%"), _sample(103.0, 100.0, 1.0), 0.05).passed
    assert not check_guard(read_guard("x<=+5%"), _sample(107.0, 100.0, 1.0), 0.05).passed
    assert check_guard(read_guard("x>=-5%"), _sample(97.0, 100.0, 1.0), 0.05).passed
    assert not check_guard(read_guard("x>=-5%"), _sample(93.0, 100.0, 1.0), 0.05).passed
