"""Intervals that can be computed by hand, and where one kind of interval gives way to another."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fledge.comparison.intervals import (
    bootstrap_interval,
    cluster_interval,
    interval_around,
    mean_interval,
    tango_interval,
    tango_z,
)

# Student (1908), differences of the hours of sleep with two drugs; R's t.test gives the interval.
SLEEP = np.array([-1.2, -2.4, -1.3, -1.3, 0.0, -1.0, -1.8, -0.8, -4.6, -1.4])

Z2 = 1.959964**2


def _normal_scores(count: int) -> NDArray[np.float64]:
    """Values as even as a normal sample can be."""
    return np.asarray(stats.norm.ppf((np.arange(count) + 0.5) / count))


def _t_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def test_mean_interval() -> None:
    assert mean_interval(np.array([1.0])) == (-math.inf, math.inf)
    assert mean_interval(np.array([2.0, 2.0])) == (2.0, 2.0)
    assert mean_interval(np.zeros(5)) == pytest.approx(mean_interval(np.zeros(5), passes=True)) != (0.0, 0.0)
    assert mean_interval(SLEEP) == pytest.approx((-2.4599, -0.7001), abs=1e-4)
    # Wilson's interval of 15 of 148, from Newcombe (1998), Statistics in Medicine 17, p. 857-872: 0.0624 to 0.1605.
    passes = np.repeat([1.0, 0.0], [15, 133])
    assert mean_interval(passes, passes=True) == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_bootstrap_interval_is_skewed_like_the_scores() -> None:
    values = np.random.default_rng(3).exponential(1.0, 60)
    low, high = mean_interval(values)
    assert low < values.mean() < high
    assert high - values.mean() > values.mean() - low


def test_one_differing_topic_gives_an_interval_across_zero() -> None:
    """Without the t interval it would end at 0."""
    gains, topics = np.zeros(60), np.repeat(np.arange(12), 5)
    gains[3] = -1.0
    low, high = cluster_interval(gains, topics)
    assert low < gains.mean() < 0 < high


def test_bootstrap_of_a_normal_sample_is_as_wide_as_the_t_interval() -> None:
    """Without the correction for small samples it would be 6 % narrower."""
    values = _normal_scores(30)
    low, high = bootstrap_interval(values)
    assert high - low == pytest.approx(np.ptp(_t_interval(values)), rel=0.02)


def test_t_interval_for_few_nonzero_values_and_for_many_values() -> None:
    values = np.concatenate([np.random.default_rng(0).exponential(1.0, 30), np.zeros(20)])
    assert bootstrap_interval(values) != pytest.approx(_t_interval(values), rel=0.01)
    values[0] = 0.0
    assert bootstrap_interval(values) == pytest.approx(_t_interval(values))
    many = np.random.default_rng(0).exponential(1.0, 5000)
    assert bootstrap_interval(many) == pytest.approx(_t_interval(many))


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        ((59, 6, 16, 80), (-0.1240, -0.0054)),  # Cavo et al. (2012)
        ((1, 1, 7, 12), (-0.517, -0.026)),  # Bentur et al. (2009)
    ],
)
def test_tango_interval(counts: tuple[int, int, int, int], interval: tuple[float, float]) -> None:
    """Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8."""
    assert tango_interval(counts[1], counts[2], sum(counts)) == pytest.approx(interval, abs=5e-4)


def test_tango_statistic_is_mcnemar_at_zero() -> None:
    assert tango_z(86, 150, 1600, 0.0) ** 2 == pytest.approx(17.356, abs=5e-4)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=200)
def test_tango_interval_contains_the_observed_difference(only_a: int, only_b: int, alike: int) -> None:
    count = only_a + only_b + alike
    if count < 2:
        return
    low, high = tango_interval(only_a, only_b, count)
    assert -1 <= low <= (only_a - only_b) / count <= high <= 1
    assert (low, high) == pytest.approx(tuple(-end for end in reversed(tango_interval(only_b, only_a, count))))


def test_tango_statistic_if_only_one_arm_may_pass() -> None:
    """With a true difference of 1 every question is passed by `a` alone."""
    assert tango_z(10, 0, 10, 1.0) == 0.0
    assert tango_z(9, 0, 10, 1.0) == -math.inf


def test_interval_of_six_topics_is_their_range() -> None:
    """Of the 63 sets of six topics, the lowest and the highest mean are left out: 2 of 64, 3 %."""
    topics = np.arange(6)
    assert cluster_interval(np.arange(1.0, 7), topics) == (1, 6)
    assert cluster_interval(np.array([1.0, 1, 1, 1, 1, 100]), topics) == (1, 100)


def test_interval_of_few_nonzero_topics_is_at_least_the_t_interval() -> None:
    means = np.zeros(12)
    means[0] = -1.0
    low, high = cluster_interval(np.repeat(means, 5), np.repeat(np.arange(12), 5))
    assert high == pytest.approx(_t_interval(means)[1])
    assert low <= _t_interval(means)[0]


def test_interval_of_random_sets_of_topics() -> None:
    """From 14 topics on the sets are drawn; they are about as wide as the t interval."""
    values = np.repeat(_normal_scores(40), 3)
    topics = np.repeat(np.arange(40), 3)
    low, high = cluster_interval(values, topics)
    assert (low, high) == pytest.approx(_t_interval(_normal_scores(40)), rel=0.1)
    assert cluster_interval(values, topics) == (low, high)


@pytest.mark.parametrize("topics", [None, np.repeat(np.arange(20), 2)])
def test_interval_depends_on_the_seed_only(topics: NDArray[np.intp] | None) -> None:
    values = np.random.default_rng(0).exponential(1.0, 40)
    first, again, other = (mean_interval(values, clusters=topics, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first == pytest.approx(other, rel=0.1)


def test_interval_of_pass_or_fail_with_topics_is_within_its_range() -> None:
    topics = np.repeat(np.arange(120), 2)
    rare = (np.arange(240) == 0).astype(float)
    high = 1 / 240 + stats.t.ppf(0.975, 119) / 240  # the t interval of 120 topics, of which one passes a half
    assert mean_interval(rare, passes=True, clusters=topics) == pytest.approx((0.0, high), abs=1e-15)
    assert mean_interval(rare, clusters=topics)[0] == pytest.approx(2 / 240 - high)
    assert mean_interval(1 - rare, passes=True, clusters=topics) == pytest.approx((1 - high, 1.0))


def test_equal_values_leave_room_for_what_was_not_observed() -> None:
    half = 0.5 * Z2 / (2 + Z2)
    assert mean_interval(np.array([0.5, 0.5])) == pytest.approx((0.5 - half, 0.5 + half))
    assert mean_interval(np.ones(5)) == pytest.approx((5 / (5 + Z2), 1.0))
    assert mean_interval(np.array([1.5, 1.5])) == (1.5, 1.5)  # not a share
    assert interval_around(0.25, 10, -1.0, 1.0) == pytest.approx(
        (0.25 - 1.25 * Z2 / (10 + Z2), 0.25 + 0.75 * Z2 / (10 + Z2))
    )


def test_wilsons_interval_of_one_question() -> None:
    assert mean_interval(np.array([1.0]), passes=True) == pytest.approx((1 / (1 + Z2), 1.0))
    assert mean_interval(np.array([0.0]), passes=True) == pytest.approx((0.0, Z2 / (1 + Z2)))
