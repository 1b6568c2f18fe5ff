"""Confidence intervals of means and of paired differences, computed with scipy and statsmodels."""

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from fledge.comparison.topics import fewest_signs

BOOTSTRAP_RESAMPLES = 9_999
BOOTSTRAP_FROM = 30  # nonzero values: with fewer, BCa covered the true mean in 84 to 93 % of samples, t in 95 %
RESAMPLED_AT_ONCE = 2_000_000  # numbers in memory
T_INTERVAL_FROM = 5_000
CLUSTER_T_FROM = 100  # clusters: with 12 uneven ones the robust t test rejected 12 % of true hypotheses, not 5 %
CONFIDENCE = 0.95
ANY_NUMBER = (-math.inf, math.inf)

Numbers = NDArray[np.float64]
Bounds = tuple[float, float]


def mean_interval(
    values: Numbers,
    *,
    passes: bool = False,
    clusters: NDArray[np.intp] | None = None,
    bounds: Bounds = ANY_NUMBER,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of a mean, clipped to `bounds`; for one value without bounds it is infinite.

    Uses `cluster_interval` with clusters, Wilson's interval for pass/fail, else `bootstrap_interval`. For equal values
    between 0 and 1 it uses `interval_around`.
    """
    return clip_interval(_mean_interval(values, clusters, seed, passes=passes), bounds)


def clip_interval(interval: tuple[float, float], bounds: Bounds) -> tuple[float, float]:
    """Clip an interval to bounds."""
    return max(interval[0], bounds[0]), min(interval[1], bounds[1])


def bootstrap_interval(values: Numbers, *, seed: int = 0) -> tuple[float, float]:
    """Return the BCa interval of a mean, widened for small samples like t against the normal (Hesterberg 2015, 5.3).

    Returns the t interval for fewer than 30 nonzero values, and for 5,000 values or more, where the two agree and
    scipy's BCa takes quadratic time.
    """
    count = len(values)
    if count < T_INTERVAL_FROM and np.count_nonzero(values) >= BOOTSTRAP_FROM:
        wider = float(stats.norm.cdf(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * math.sqrt(count / (count - 1))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # degenerate samples get the t interval
            interval = stats.bootstrap(
                (values,),
                np.mean,
                confidence_level=2 * wider - 1,
                n_resamples=BOOTSTRAP_RESAMPLES,
                batch=max(1, RESAMPLED_AT_ONCE // count),
                method="BCa",
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            return float(interval.low), float(interval.high)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return float(low), float(high)


def tango_interval(only_a: int, only_b: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a paired difference of proportions by inverting Tango's score test."""
    seen = (only_a - only_b) / count
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    edge = 1 - 1e-9

    def bound(end: float, sign: int) -> float:
        def beyond(difference: float) -> float:
            return tango_z(only_a, only_b, count, difference) - sign * z

        near = min(max(seen, -edge), edge)
        if beyond(end) * beyond(near) >= 0:
            return float(round(end))
        return float(brentq(beyond, end, near))

    return bound(-edge, 1), bound(edge, -1)


def tango_z(only_a: int, only_b: int, count: int, difference: float) -> float:
    """Return the score statistic for a paired difference of proportions (Tango 1998); standard normal if the true
    difference is `difference`."""
    b = -only_a - only_b + (2 * count - only_a + only_b) * difference
    c = -only_b * difference * (1 - difference)
    rare = (math.sqrt(max(b * b - 8 * count * c, 0.0)) - b) / (4 * count)
    variance = count * (2 * rare + difference * (1 - difference))
    distance = only_a - only_b - count * difference
    if variance <= 0:
        return 0.0 if abs(distance) < 1e-12 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def cluster_interval(values: Numbers, clusters: NDArray[np.intp], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a mean with clusters.

    Below 100 clusters: the 2.5th to 97.5th percentile of the means of random sets of clusters, which inverts the
    sign-flip test (Hartigan 1969); infinite for fewer than six clusters. Otherwise the t interval with cluster-robust
    errors. If fewer than six clusters are nonzero, the wider of both.
    """
    robust = _robust_interval(values, clusters)
    if not has_few_clusters(clusters):
        return robust
    means = np.sort(means_of_sets(values, clusters, seed))
    out = math.floor((1 - CONFIDENCE) / 2 * (len(means) + 1))
    low, high = (float(means[out - 1]), float(means[-out])) if out else (-math.inf, math.inf)
    if np.count_nonzero(np.bincount(clusters, weights=values)) < fewest_signs(1 - CONFIDENCE):
        low, high = min(low, robust[0]), max(high, robust[1])
    return low, high


def cluster_error(values: Numbers, clusters: NDArray[np.intp]) -> tuple[float, int]:
    """Return the cluster-robust standard error of the mean and its degrees of freedom (clusters minus 1)."""
    result: Any = OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    return float(result.bse[0]), int(len(np.unique(clusters)) - 1)


def has_few_clusters(clusters: NDArray[np.intp]) -> bool:
    return int(clusters.max()) + 1 < CLUSTER_T_FROM


def interval_around(value: float, count: float, least: float, most: float) -> tuple[float, float]:
    """Return the interval of a mean when all `count` values equal `value`: an unobserved share of the population may
    lie at `least` or `most`."""
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    unseen = z * z / (count + z * z)
    return value - unseen * (value - least), value + unseen * (most - value)


def means_of_sets(values: Numbers, clusters: NDArray[np.intp], seed: int) -> Numbers:
    """Return the mean over each set of clusters, to 12 digits: all sets if there are few clusters, else random sets."""
    sums, sizes = np.bincount(clusters, weights=values), np.bincount(clusters)
    count = len(sums)
    if 2**count <= BOOTSTRAP_RESAMPLES:
        chosen = (np.arange(1, 2**count)[:, None] >> np.arange(count)) % 2
    else:
        chosen = np.random.default_rng(seed).integers(0, 2, (BOOTSTRAP_RESAMPLES, count))
        chosen = chosen[chosen.any(axis=1)]
    means: Numbers = np.asarray((chosen @ sums) / (chosen @ sizes), dtype=np.float64)
    return np.round(means, 12)


def _mean_interval(
    values: Numbers, clusters: NDArray[np.intp] | None, seed: int, *, passes: bool
) -> tuple[float, float]:
    count = len(values)
    if clusters is not None and np.ptp(values) > 0:
        interval = cluster_interval(values, clusters, seed=seed)
        return clip_interval(interval, (0.0, 1.0)) if passes else interval
    if count > 1 and np.ptp(values) == 0 and 0 <= values[0] <= 1:
        return interval_around(float(values[0]), count, 0.0, 1.0)
    if passes:
        passed = int(values.sum())
        low, high = proportion_confint(passed, count, 1 - CONFIDENCE, "wilson")
        return (float(low) if passed else 0.0), (
            float(high) if passed < count else 1.0
        )  # exact at the ends, despite rounding
    if count < 2:
        return (-math.inf, math.inf)
    if np.ptp(values) == 0:
        return (float(values[0]), float(values[0]))
    return bootstrap_interval(values, seed=seed)


def _robust_interval(values: Numbers, clusters: NDArray[np.intp]) -> tuple[float, float]:
    error, freedom = cluster_error(values, clusters)
    half, mean = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error, float(np.mean(values))
    return mean - half, mean + half
