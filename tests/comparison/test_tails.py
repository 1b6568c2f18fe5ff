import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from fledge.comparison.options import CompareOptions
from fledge.comparison.statistics import PairedSample, one_sided_p, paired_test
from fledge.comparison.tails import (
    SMALL,
    count_for_tail,
    effective_count,
    has_heavy_tail,
    hoeffding_distance,
    hoeffding_p,
)
from fledge.comparison.verdict import compare_scores
from tests.comparison.shapes import LIKE, RARE, UNLIKE, Shape, flip, p_values, rates

TABLES = 1_000
ERROR = 2 * math.sqrt(0.06 * 0.94 / TABLES)


def _table(**arms: list[float]) -> pd.DataFrame:
    table = pd.DataFrame(arms).melt(var_name="arm", value_name="quality", ignore_index=False)
    return table.rename_axis("question").reset_index()


def test_heavy_tail_counts_only_on_the_opposite_side_of_zero() -> None:
    gains = np.array([-1.0] * 38 + [9.0, 9.0])  # mean -0.5, and a long tail above zero
    assert has_heavy_tail(gains)
    assert has_heavy_tail(-gains)
    assert not has_heavy_tail(gains + 2)  # mean and tail on one side
    assert not has_heavy_tail(np.zeros(9))
    symmetric = np.array([-0.5] * 38 + [8.5, -9.5])
    assert list(has_heavy_tail(np.stack([gains, gains + 2, symmetric]))) == [True, False, False]


@pytest.mark.parametrize("unit", [1e-120, 1e100])
def test_heavy_tail_does_not_depend_on_the_unit(unit: float) -> None:
    gains = np.array([-1.0] * 38 + [9.0, 9.0])
    assert has_heavy_tail(gains * unit)
    assert count_for_tail(gains * unit) == count_for_tail(gains)


def _gains(large: int, count: int) -> NDArray[np.float64]:
    """Differences with a negative mean, of which `large` are positive: a mean of the skewness of a Bernoulli variable,
    (1 - 2 p) / sqrt(p (1 - p) count)."""
    return np.where(np.arange(count) < large, 1.0, -2.0)


def test_few_questions_or_topics_need_more_skewness() -> None:
    """Below 20 the limit is 3 / count, here 0.25; 4 of 12 have a skewness of 0.204, and 3 of 12 one of 0.333."""
    assert not has_heavy_tail(_gains(4, 12))
    assert has_heavy_tail(_gains(3, 12))
    topics = np.repeat(np.arange(12), 100)
    assert not has_heavy_tail(np.repeat(_gains(4, 12), 100), topics)
    assert has_heavy_tail(np.repeat(_gains(3, 12), 100), topics)


def test_count_for_tail_by_hand() -> None:
    """Of 12 topics with 100 questions each, 4 are large: 1,200 * 0.5 / 12 / 0.15**2."""
    topics = np.repeat(np.arange(12), 100)
    assert count_for_tail(np.repeat(_gains(4, 12), 100), topics) == 2223
    assert count_for_tail(_gains(4, 12)) == 23  # 12 * 0.5 / 12 / 0.15**2


def test_count_for_tail_makes_the_skewness_small() -> None:
    gains = np.array([-1.0] * 38 + [9.0, 9.0])
    times = math.ceil(count_for_tail(gains) / 40)
    assert not has_heavy_tail(np.tile(gains, times))
    assert has_heavy_tail(np.tile(gains, times - 1))
    assert SMALL * math.sqrt(times * 40) == pytest.approx(18 / math.sqrt(19), rel=0.05)  # skewness of 2 in 40


def test_one_topic_that_carries_the_mean_is_a_heavy_tail() -> None:
    clusters = np.arange(1200) % 12
    gains = np.where(clusters == 0, 0.9, -0.1)  # small skewness over 1,200 questions, large over 12 topics
    assert not has_heavy_tail(gains)
    assert has_heavy_tail(gains, clusters)
    assert effective_count(1200, clusters) == pytest.approx(12)


def test_hoeffding_by_hand() -> None:
    assert float(hoeffding_p(0.5, 1.0, 40)) == pytest.approx(2 * math.exp(-5))
    assert float(hoeffding_p(0.05, 0.1, 40)) == pytest.approx(2 * math.exp(-5))
    assert float(hoeffding_p(0.0, 1.0, 40)) == 1.0
    distance = hoeffding_distance(1.0, 40, 0.95)
    assert float(hoeffding_p(distance, 1.0, 40)) == pytest.approx(0.05)


def test_a_guard_fails_with_rare_slow_answers() -> None:
    """The arm is 0.1 s faster except on two questions: a t test alone would pass the guard of +0.05 s."""
    seconds = np.array([0.9] * 38 + [1.6, 1.7])
    sample = PairedSample(seconds + np.linspace(0, 0.001, 40), np.ones(40))
    assert stats.ttest_1samp(sample.differences, 0.05, alternative="less").pvalue < 0.001
    assert one_sided_p(sample, 0.05, "less") > 0.05


@pytest.mark.parametrize("shape", UNLIKE.values(), ids=UNLIKE)
def test_error_rate_of_equal_means_with_different_shapes(shape: Shape) -> None:
    found = rates(shape, TABLES, 40, 3)
    assert found[2].now <= 0.06 + ERROR
    assert found[3].now <= 0.06 + ERROR


def test_sign_flips_alone_exceed_the_error_rate() -> None:
    assert rates(RARE, TABLES, 40, 3)[3].flips > 0.1


def test_equal_shapes_lose_little_power() -> None:
    found = rates(LIKE["normal"], TABLES, 34, shift=0.5)[2]
    assert found.flips - 0.03 <= found.now <= found.flips
    assert found.now >= 0.75


def test_simulation_follows_paired_test() -> None:
    rng = np.random.default_rng(5)
    for shape in (RARE, LIKE["beta(2, 4)"]):
        a, b = shape.baseline(rng, (12, 40)), shape.other(rng, (12, 40))
        expected = p_values(a, b, flip(np.round(b - a, 12), None, rng), None)
        found = [paired_test(PairedSample(first, second)).p for first, second in zip(b, a, strict=True)]
        assert np.allclose(found, expected, atol=0.04)
        assert np.max(np.abs(found - expected)[expected < 0.1], initial=0) < 0.01
    pair = compare_scores(_table(a=list(a[0]), b=list(b[0])), "quality").pairs[0]
    assert pair.p == pytest.approx(expected[0], abs=0.02)


def test_constant_against_rare_scores_is_inconclusive() -> None:
    """Equal means: 0.1 on every question, or 1 on one in ten. With one right answer in 40, sign flips say worse."""
    pair = compare_scores(_table(a=[0.1] * 40, b=[1.0] + [0.0] * 39), "quality").pairs[0]
    assert (pair.verdict, pair.test) == ("inconclusive", "hoeffding")
    assert compare_scores(
        _table(a=[0.1] * 40, b=[1.0] + [0.0] * 39), "quality", CompareOptions(test="permutation")
    ).pairs[0].p == pytest.approx(0.02, abs=0.02)
    assert pair.ci[0] < 0 < pair.ci[1] <= 1
    assert "the differences are too skewed for 40 questions: a few large ones carry the mean; ask about 1," in (
        pair.summary()
    )


def test_large_differences_stay_significant_with_a_tail() -> None:
    """An arm that fails on almost all questions is worse."""
    rng = np.random.default_rng(1)
    broken = np.where(np.arange(40) % 5 == 0, 1.0, 0.0)
    pair = compare_scores(_table(a=list(rng.beta(9, 1, 40)), b=list(broken)), "quality").pairs[0]
    assert (pair.verdict, pair.test) == ("worse", "hoeffding")
    assert (pair.reason, pair.needed_questions) == (None, None)
    assert pair.ci[1] < 0


def test_small_constant_costs_are_not_treated_as_shares() -> None:
    table = _table(a=[0.0003] * 40, b=[0.0002] * 40)
    known = compare_scores(table, "quality", higher_is_better=False, range_of=lambda _: (0.0, float("inf")))
    assert known.pairs[0].verdict == "better"
    shares = compare_scores(table, "quality", higher_is_better=False, range_of=lambda _: (0.0, 1.0)).pairs[0]
    assert shares.verdict == "inconclusive"
    assert -1 <= shares.ci[0] <= shares.ci[1] <= 1
