"""Paired statistics, each by scipy or statsmodels; pure functions of numbers."""

import math
import warnings
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import cochrans_q, mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

BOOTSTRAP_RESAMPLES = 9_999
BOOTSTRAP_FROM = 30  # values other than zero: with fewer, BCa held the truth in 84 to 93 of 100 samples, t in 95
RESAMPLED_AT_ONCE = 2_000_000  # numbers in memory
T_INTERVAL_FROM = 5_000
CLUSTER_T_FROM = 100  # clusters; of 12 uneven ones the robust t test refused 12 % of true hypotheses instead of 5 %
FEWEST_TOPICS = 6  # that are not zero: sign flips of five give no 5 %
CONFIDENCE = 0.95

Numbers = NDArray[np.float64]
TestName = Literal["auto", "t", "wilcoxon", "permutation", "mcnemar", "mcnemar-chi2", "mcnemar-chi2-corrected"]
TESTS: tuple[str, ...] = get_args(TestName)


class Sample(NamedTuple):
    """Paired scores of two arms, one of each for a question (no NaN).

    `passes` says that every score is pass or fail, 0 or 1; `binary` that each was so before samples were averaged.
    `clusters` numbers each question's topic from 0, or is None where questions count as independent of each other.
    """

    a: Numbers
    b: Numbers
    passes: bool = False
    clusters: NDArray[np.intp] | None = None
    binary: bool = False

    @property
    def differences(self) -> Numbers:
        """`a` minus `b`, to 12 digits of the largest score: beyond them is what rounding left."""
        largest = max(float(np.max(np.abs(self.a))), float(np.max(np.abs(self.b))))
        digits = 12 - math.floor(math.log10(largest)) if largest else 12
        return np.round(self.a - self.b, min(digits, 300))

    @property
    def discordant(self) -> tuple[int, int]:
        """How many questions `a` did better, and how many `b`; of pass/fail those that only one of them passed."""
        return int(np.sum(self.a > self.b)), int(np.sum(self.a < self.b))


class PairedTest(NamedTuple):
    """Mean difference, its interval, the p-value of no difference (two-sided), the test's name and statistic.

    `spread` is the standard deviation of a question's difference, for planning; with clusters the one that gives the
    standard error seen.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str
    statistic: float
    spread: float


class Omnibus(NamedTuple):
    """A test of no difference between all arms at once, over the questions that all of them answered."""

    test: str
    statistic: float
    p: float
    questions: int


def paired_test(sample: Sample, test: TestName = "auto", *, seed: int = 0) -> PairedTest:
    """Test whether the mean difference is zero, with its 95 % interval.

    `auto` is: with clusters sign flips of whole clusters, and from 100 of them on a t test on cluster-robust errors;
    for pass/fail exact McNemar; for scores a sign-flip permutation test, and a t test from 5,000 questions on. The
    interval is Tango's for pass/fail (Tango 1998), BCa bootstrap for scores (Efron 1987), `cluster_interval` with
    clusters, and that of the t test where this is the test. `statistic` is t, the sum of the positive ranks
    (Wilcoxon), the mean difference (permutation), the rarer of the two disagreements (exact McNemar), or chi-squared.
    One question gives p = 1 and an infinite interval. Raises `ValueError` for McNemar on scores.
    """
    values = sample.differences
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return PairedTest(mean, -math.inf, math.inf, 1.0, "none", mean, math.nan)
    spread = float(np.std(values, ddof=1))
    if test.startswith("mcnemar") and not sample.passes:
        raise ValueError("McNemar's test is for scores that are all 0 or 1, one answer to a question")
    if sample.clusters is not None and test == "auto":
        return _clustered(sample, sample.clusters, seed)
    if test == "auto" and sample.passes:
        test = "mcnemar"
    elif test == "auto":
        test = "t" if count >= T_INTERVAL_FROM else "permutation"
    if test.startswith("mcnemar"):
        low, high = tango_interval(*sample.discordant, count)
        statistic, p = _mcnemar(*sample.discordant, test)
        return PairedTest(mean, low, high, p, test, statistic, spread)
    if np.ptp(values) == 0:
        low, high = _alike_interval(sample)
        return PairedTest(mean, low, high, _all_alike(mean, count, sides=2), "permutation", mean, spread)
    if test == "t":
        result = stats.ttest_1samp(values, 0.0)
        low, high = map(float, result.confidence_interval(CONFIDENCE))
        return PairedTest(mean, low, high, float(result.pvalue), "t", float(result.statistic), spread)
    low, high = bootstrap_interval(values, seed=seed)
    if test == "wilcoxon":
        statistic, p = _wilcoxon(values)
    else:
        statistic, p = mean, _permutation(values, seed)
    return PairedTest(mean, low, high, p, test, statistic, spread)


def one_sided(sample: Sample, bound: float, alternative: Literal["less", "greater"]) -> float:
    """p-value that the mean difference is `less` (or `greater`) than `bound`, against its being at the bound or beyond.

    By sign flips or robust errors where there are clusters, as in `paired_test`; Tango's score test for pass/fail, else
    a t test. What was never seen may only be rare, of which neither signs nor spreads know: where scores were pass or
    fail, and where all of 0 to 1 differ alike, p is at least that of Tango's test of the questions.
    """
    sign = -1 if alternative == "less" else 1
    gains = sign * (sample.differences - bound)
    count, mean = len(gains), float(np.mean(gains))
    if count < 2:
        return 1.0
    least = 0.0
    if sample.passes or sample.binary:
        least = float(stats.norm.sf(sign * tango_z(*sample.discordant, count, bound)))
    elif np.ptp(gains) == 0 and mean > 0 and _of_shares(sample):
        share = min(mean / (1 + abs(mean - bound)), 1 - 1e-9)  # who differs, does so by that much at most
        least = float(stats.norm.cdf(tango_z(0, 0, count, share)))
    if sample.passes and sample.clusters is None:
        return least
    if sample.clusters is not None and _few(sample.clusters):
        return max(least, flipped_p(gains, sample.clusters))
    if sample.clusters is not None:
        error, freedom = cluster_error(gains, sample.clusters)
    else:
        error, freedom = float(np.std(gains, ddof=1)) / math.sqrt(count), count - 1
    if error < 1e-12:
        return max(least, _all_alike(mean, freedom + 1, sides=1)) if mean > 0 else 1.0
    return max(least, float(stats.t.sf(mean / error, freedom)))


def equivalence(sample: Sample, margin: float) -> float:
    """p-value of two one-sided tests (Schuirmann 1987) that the difference lies within `margin` of zero."""
    return max(one_sided(sample, margin, "less"), one_sided(sample, -margin, "greater"))


def omnibus(scores: Numbers, *, passes: bool) -> Omnibus | None:
    """Cochran's Q for pass/fail, else Friedman's test; `scores` has a row for each question and a column for each arm.

    None for fewer than three arms or two questions.
    """
    questions, arms = scores.shape
    if arms < 3 or questions < 2:
        return None
    name = "cochran-q" if passes else "friedman"
    if not np.any(np.ptp(scores, axis=1)):
        return Omnibus(name, 0.0, 1.0, questions)
    if passes:
        result = cochrans_q(scores)
        return Omnibus(name, float(result.statistic), float(result.pvalue), questions)
    statistic, p = stats.friedmanchisquare(*scores.T)
    return Omnibus(name, float(statistic), float(p), questions)


def mean_interval(
    values: Numbers, *, passes: bool = False, clusters: NDArray[np.intp] | None = None, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a mean; infinite for one value.

    As `cluster_interval` with clusters, Wilson's for pass/fail, else as `bootstrap_interval`. Of values from 0 to 1
    that are all alike, Wilson's interval of the share that is not seen.
    """
    count = len(values)
    if clusters is not None and np.ptp(values) > 0:
        low, high = cluster_interval(values, clusters, seed=seed)
        return (max(low, 0.0), min(high, 1.0)) if passes else (low, high)
    if count > 1 and np.ptp(values) == 0 and 0 <= values[0] <= 1:
        return _around(float(values[0]), count, 0.0, 1.0)
    if passes:
        passed = int(values.sum())
        low, high = proportion_confint(passed, count, 1 - CONFIDENCE, "wilson")
        return (float(low) if passed else 0.0), (float(high) if passed < count else 1.0)  # but for what rounding leaves
    if count < 2:
        return (-math.inf, math.inf)
    if np.ptp(values) == 0:
        return (float(values[0]), float(values[0]))
    return bootstrap_interval(values, seed=seed)


def bootstrap_interval(values: Numbers, *, seed: int = 0) -> tuple[float, float]:
    """BCa interval of a mean, widened for small samples as t is against the normal (Hesterberg 2015, section 5.3).

    The t interval for fewer than 30 values that are not zero, and from 5,000 values on: there it is the same, and
    scipy's BCa takes quadratic time.
    """
    count = len(values)
    if count < T_INTERVAL_FROM and np.count_nonzero(values) >= BOOTSTRAP_FROM:
        wider = float(stats.norm.cdf(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * math.sqrt(count / (count - 1))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # degenerate samples, which get the t interval
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


def adjust(p_values: list[float], method: Literal["holm", "fdr_bh"] = "holm") -> list[float]:
    """Correction for several comparisons: Holm (1979) for the chance of any error, Benjamini and Hochberg (1995) for
    the share of false findings."""
    if len(p_values) < 2:
        return list(p_values)
    return [float(p) for p in multipletests(p_values, method=method)[1]]


def tango_z(only_a: int, only_b: int, count: int, difference: float) -> float:
    """Score statistic of a paired difference of proportions (Tango 1998): standard normal if it is `difference`."""
    b = -only_a - only_b + (2 * count - only_a + only_b) * difference
    c = -only_b * difference * (1 - difference)
    rare = (math.sqrt(max(b * b - 8 * count * c, 0.0)) - b) / (4 * count)
    variance = count * (2 * rare + difference * (1 - difference))
    distance = only_a - only_b - count * difference
    if variance <= 0:
        return 0.0 if abs(distance) < 1e-12 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def tango_interval(only_a: int, only_b: int, count: int) -> tuple[float, float]:
    """95 % interval of a paired difference of proportions: where Tango's score test does not refuse it."""
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


def cluster_error(values: Numbers, clusters: NDArray[np.intp]) -> tuple[float, int]:
    """Cluster-robust standard error of the mean, and its degrees of freedom: one fewer than there are clusters."""
    result: Any = OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    return float(result.bse[0]), int(len(np.unique(clusters)) - 1)


def cluster_interval(values: Numbers, clusters: NDArray[np.intp], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean with clusters: the means of random sets of clusters between the 2.5th and the 97.5th
    percentile, which is where sign flips of clusters do not refuse (Hartigan 1969); infinite for fewer than six. From
    100 clusters on the t interval on cluster-robust errors; where fewer than six clusters are not zero, whatever of
    the two is wider."""
    robust = _robust_interval(values, clusters)
    if not _few(clusters):
        return robust
    means = np.sort(_means_of_sets(values, clusters, seed))
    out = math.floor((1 - CONFIDENCE) / 2 * (len(means) + 1))
    low, high = (float(means[out - 1]), float(means[-out])) if out else (-math.inf, math.inf)
    if np.count_nonzero(np.bincount(clusters, weights=values)) < FEWEST_TOPICS:
        low, high = min(low, robust[0]), max(high, robust[1])
    return low, high


def _of_shares(sample: Sample) -> bool:
    """Whether all scores are from 0 to 1."""
    return bool(np.all((sample.a >= 0) & (sample.a <= 1) & (sample.b >= 0) & (sample.b <= 1)))


def _alike_interval(sample: Sample) -> tuple[float, float]:
    """Of differences that are all alike: Tango's, where scores are from 0 to 1, else nothing is known of others."""
    mean = float(np.mean(sample.differences))
    return _around(mean, len(sample.a), -1.0, 1.0) if _of_shares(sample) else (mean, mean)


def _around(value: float, count: int, least: float, most: float) -> tuple[float, float]:
    """What a mean may be where `count` values are one, as a share that was not seen may be `least` or `most`."""
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    unseen = z * z / (count + z * z)
    return value - unseen * (value - least), value + unseen * (most - value)


def _robust_interval(values: Numbers, clusters: NDArray[np.intp]) -> tuple[float, float]:
    error, freedom = cluster_error(values, clusters)
    half, mean = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error, float(np.mean(values))
    return mean - half, mean + half


def flipped_p(gains: Numbers, clusters: NDArray[np.intp], *, seed: int = 0) -> float:
    """p-value that the mean is above zero, by flipping the signs of whole clusters.

    A flip gives as large a mean as the one seen where the clusters that are flipped have a mean of zero or less.
    """
    means = _means_of_sets(gains, clusters, seed)
    return float((1 + np.sum(means <= 0)) / (1 + len(means)))


def _few(clusters: NDArray[np.intp]) -> bool:
    return int(clusters.max()) + 1 < CLUSTER_T_FROM


def _means_of_sets(values: Numbers, clusters: NDArray[np.intp], seed: int) -> Numbers:
    """The mean over each set of clusters (all sets where they are few, else random ones), to 12 digits."""
    sums, sizes = np.bincount(clusters, weights=values), np.bincount(clusters)
    count = len(sums)
    if 2**count <= BOOTSTRAP_RESAMPLES:
        chosen = (np.arange(1, 2**count)[:, None] >> np.arange(count)) % 2
    else:
        chosen = np.random.default_rng(seed).integers(0, 2, (BOOTSTRAP_RESAMPLES, count))
        chosen = chosen[chosen.any(axis=1)]
    means: Numbers = np.asarray((chosen @ sums) / (chosen @ sizes), dtype=np.float64)
    return np.round(means, 12)


def _clustered(sample: Sample, clusters: NDArray[np.intp], seed: int) -> PairedTest:
    values = sample.differences
    mean = float(np.mean(values))
    error, freedom = cluster_error(values, clusters)
    spread = error * math.sqrt(len(values))
    alike = np.ptp(values) == 0
    low, high = _alike_interval(sample) if alike else cluster_interval(values, clusters, seed=seed)
    if _few(clusters):
        above, below = flipped_p(values, clusters, seed=seed), flipped_p(-values, clusters, seed=seed)
        return PairedTest(mean, low, high, min(1.0, 2 * above, 2 * below), "cluster-permutation", mean, spread)
    if error < 1e-12:
        p = _all_alike(mean, freedom + 1, sides=2)
        return PairedTest(mean, low, high, p, "cluster-t", 0.0, spread)
    t = mean / error
    return PairedTest(mean, low, high, float(2 * stats.t.sf(abs(t), freedom)), "cluster-t", t, spread)


def _mcnemar(only_a: int, only_b: int, test: str) -> tuple[float, float]:
    if only_a + only_b == 0:
        return 0.0, 1.0
    correction = test == "mcnemar-chi2-corrected"
    result = mcnemar([[0, only_a], [only_b, 0]], exact=test == "mcnemar", correction=correction)
    return float(result.statistic), float(result.pvalue)


def _wilcoxon(values: Numbers) -> tuple[float, float]:
    """The sum of the positive ranks, as R gives it, and the two-sided p-value; ties of zero are left out."""
    positive = stats.wilcoxon(values, alternative="greater").statistic
    return float(positive), float(stats.wilcoxon(values).pvalue)


def _permutation(values: Numbers, seed: int) -> float:
    result = stats.permutation_test(
        (values,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=max(1, RESAMPLED_AT_ONCE // len(values)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _all_alike(shift: float, count: int, *, sides: int) -> float:
    """The p-value of `count` equal differences, which have no spread to judge by: that of a sign test."""
    return min(1.0, sides * 0.5**count) if abs(shift) > 1e-12 else 1.0
