import math

import numpy as np
import pytest

from fledge.comparison.statistics import adjust, mean_interval, paired_difference, questions_needed

# Student (1908), extra hours of sleep with two drugs, as in R's `sleep`.
SLEEP_1 = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SLEEP_2 = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_sleep_data_by_permutation() -> None:
    result = paired_difference(SLEEP_1 - SLEEP_2)
    assert result.difference == pytest.approx(-1.58)
    # Ten pairs have 1,024 sign flips, so the test is exact: 4 of them are as extreme (one difference is zero).
    assert result.p == pytest.approx(4 / 1024)
    assert result.low < -1.58 < result.high < 0


def test_many_questions_take_the_t_test() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, 5000)
    result = paired_difference(values)
    assert result.test == "t"
    half = 1.96 * values.std(ddof=1) / math.sqrt(5000)
    assert result.low == pytest.approx(values.mean() - half, abs=1e-3)
    assert result.high == pytest.approx(values.mean() + half, abs=1e-3)


def test_seeded() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, 40)
    assert paired_difference(values, seed=1) == paired_difference(values, seed=1)


def test_degenerate_inputs_have_clear_outcomes() -> None:
    alone = paired_difference(np.array([0.3]))
    assert (alone.p, alone.low, alone.high) == (1.0, -math.inf, math.inf)
    ties = paired_difference(np.zeros(12))
    assert (ties.difference, ties.low, ties.high, ties.p) == (0.0, 0.0, 0.0, 1.0)
    constant = paired_difference(np.full(12, 0.5))
    assert (constant.low, constant.high) == (0.5, 0.5)
    assert constant.p < 0.01


def test_mean_interval() -> None:
    assert mean_interval(np.array([1.0])) == (-math.inf, math.inf)
    assert mean_interval(np.array([2.0, 2.0])) == (2.0, 2.0)
    interval = mean_interval(SLEEP_1 - SLEEP_2)  # as R's t.test(paired = TRUE) gives it
    assert list(interval) == pytest.approx([-2.4599, -0.7001], abs=1e-4)


def test_holm_by_hand() -> None:
    assert adjust([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust([]) == []


def test_questions_needed_for_half_a_standard_deviation() -> None:
    assert questions_needed(0.5, 1.0) == 34  # G*Power and R's power.t.test(type="paired") say 33.4
    assert questions_needed(0.0, 1.0) is None
    assert questions_needed(0.2, 0.0) == 3
    assert questions_needed(5.0, 1.0) == 3
    assert questions_needed(0.01, 1.0) == 78_491
