"""Paired statistics, each by scipy or statsmodels; pure functions of numbers."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

BOOTSTRAP_RESAMPLES = 9_999
T_INTERVAL_FROM = 5_000

Numbers = NDArray[np.float64]


class PairedTest(NamedTuple):
    """Mean difference, its 95 % interval, the p-value of no difference, and the test's name and statistic."""

    difference: float
    low: float
    high: float
    p: float
    test: str
    statistic: float


def paired_difference(differences: Numbers, *, confidence: float = 0.95, seed: int = 0) -> PairedTest:
    """Test one difference for each question (one dimension, no NaN) against zero.

    BCa bootstrap interval and sign-flip permutation test (Efron 1987; Ernst 2004); a t test from 5,000 questions on.
    One question gives an infinite interval and p = 1.
    """
    count = len(differences)
    mean = float(np.mean(differences))
    if count < 2:
        return PairedTest(mean, -math.inf, math.inf, 1.0, "none", mean)
    if count >= T_INTERVAL_FROM:
        result = stats.ttest_1samp(differences, 0.0)
        low, high = result.confidence_interval(confidence)
        return PairedTest(mean, float(low), float(high), float(result.pvalue), "t", float(result.statistic))
    rng = np.random.default_rng(seed)
    permuted = stats.permutation_test(
        (differences,), _mean, permutation_type="samples", vectorized=True, n_resamples=BOOTSTRAP_RESAMPLES, rng=rng
    )
    p = float(permuted.pvalue)
    if np.ptp(differences) == 0:  # the bootstrap has nothing to vary
        return PairedTest(mean, mean, mean, p, "permutation", mean)
    interval = stats.bootstrap(
        (differences,), np.mean, confidence_level=confidence, n_resamples=BOOTSTRAP_RESAMPLES, method="BCa", rng=rng
    ).confidence_interval
    return PairedTest(mean, float(interval.low), float(interval.high), p, "permutation", mean)


def _mean(values: Numbers, axis: int = -1) -> Numbers:
    return np.asarray(np.mean(values, axis=axis))


def mean_interval(values: Numbers, *, confidence: float = 0.95) -> tuple[float, float]:
    """t interval of a mean; infinite for fewer than two values."""
    if len(values) < 2:
        return (-math.inf, math.inf)
    if np.ptp(values) == 0:
        return (float(values[0]), float(values[0]))
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    return (float(low), float(high))


def adjust(p_values: list[float]) -> list[float]:
    """Holm's correction for several comparisons (Holm 1979)."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def questions_needed(effect: float, sd: float, *, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Questions that a paired t test needs to find `effect` (same unit as `sd`); None if no number is enough."""
    if effect == 0 or not math.isfinite(effect) or not math.isfinite(sd):
        return None
    if sd == 0:
        return 3
    size = min(abs(effect) / sd, 100.0)
    solver = TTestPower()
    # The solver does not converge where a handful is enough: try those one by one.
    few = next((count for count in range(3, 30) if solver.power(size, count, alpha) >= power), None)
    if few is not None:
        return few
    return math.ceil(float(np.squeeze(solver.solve_power(effect_size=size, power=power, alpha=alpha))))
