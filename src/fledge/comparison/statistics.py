"""Paired tests: pure functions, computed with scipy and statsmodels."""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q, mcnemar
from statsmodels.stats.multitest import multipletests

from fledge.comparison.intervals import (
    ANY_NUMBER,
    BOOTSTRAP_RESAMPLES,
    CONFIDENCE,
    RESAMPLED_AT_ONCE,
    T_INTERVAL_FROM,
    Bounds,
    Numbers,
    bootstrap_interval,
    clip_interval,
    cluster_error,
    cluster_interval,
    has_few_clusters,
    interval_around,
    means_of_sets,
    tango_interval,
    tango_z,
)
from fledge.comparison.options import TestName
from fledge.comparison.tails import (
    effective_count,
    has_heavy_tail,
    hoeffding_distance,
    hoeffding_p,
    unobserved_p,
)


class PairedSample(NamedTuple):
    """Paired scores of two arms, one pair for each question (no NaN).

    `passes`: every score is 0 or 1. `binary`: every score was 0 or 1 before samples were averaged. `clusters` numbers
    each question's topic from 0, or is None if questions are treated as independent. `bounds` are the lowest and
    highest possible score.
    """

    a: Numbers
    b: Numbers
    passes: bool = False
    clusters: NDArray[np.intp] | None = None
    binary: bool = False
    bounds: Bounds = ANY_NUMBER

    @property
    def differences(self) -> Numbers:
        """`a` minus `b`, rounded to 12 significant digits of the largest score to drop floating-point noise."""
        largest = max(float(np.max(np.abs(self.a))), float(np.max(np.abs(self.b))))
        digits = 12 - math.floor(math.log10(largest)) if largest else 12
        return np.round(self.a - self.b, min(digits, 300))

    @property
    def discordant(self) -> tuple[int, int]:
        """Number of questions on which `a` scores higher, and on which `b` does."""
        return int(np.sum(self.a > self.b)), int(np.sum(self.a < self.b))

    @property
    def of_shares(self) -> bool:
        """Whether scores lie between 0 and 1, and no other bounds are known."""
        return self.bounds in ((0.0, 1.0), ANY_NUMBER) and bool(
            np.all((self.a >= 0) & (self.a <= 1) & (self.b >= 0) & (self.b <= 1))
        )

    @property
    def reach(self) -> float:
        """Largest possible difference of two scores; without known bounds, the observed range."""
        observed = float(max(self.a.max(), self.b.max()) - min(self.a.min(), self.b.min()))
        width = self.bounds[1] - self.bounds[0]
        return max(observed, width) if math.isfinite(width) else observed

    @property
    def effective(self) -> float:
        """Effective sample size, in independent questions."""
        return effective_count(len(self.a), self.clusters)


class PairedTest(NamedTuple):
    """Mean difference, its interval, the p-value of no difference (two-sided), the test's name and statistic.

    `spread` is the standard deviation of a question's difference, for planning; with clusters, the one that gives the
    observed standard error.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str
    statistic: float
    spread: float


class Omnibus(NamedTuple):
    """Test of no difference between any arms, over the questions that all arms answered."""

    test: str
    statistic: float
    p: float
    questions: int


def paired_test(sample: PairedSample, test: TestName = "auto", *, seed: int = 0) -> PairedTest:
    """Test whether the mean difference is zero, with its 95 % interval.

    `auto` chooses: with clusters, a sign-flip test of whole clusters, or from 100 clusters a t test with cluster-robust
    errors; for pass/fail, exact McNemar; for scores, a sign-flip permutation test, or from 5,000 questions a t test.
    The interval is Tango's for pass/fail (Tango 1998), BCa bootstrap for scores (Efron 1987), `cluster_interval` with
    clusters, and the t interval for a t test. `statistic` is t, the sum of the positive ranks (Wilcoxon), the mean
    difference (permutation), the rarer of the two disagreements (exact McNemar), or chi-squared. One question gives
    p = 1 and an infinite interval. Raises `ValueError` for McNemar on scores.

    These tests hold their level only if the skewness of the mean is small. If `auto` finds a heavy tail on the opposite
    side of zero, the test is `hoeffding`: p is at least that of Hoeffding's bound, and the interval extends to that
    bound on that side.
    """
    result = _run_test(sample, test, seed)
    if test == "auto" and result.test not in ("none", "mcnemar"):
        result = _apply_hoeffding(sample, result)
    width = sample.bounds[1] - sample.bounds[0]
    low, high = clip_interval((result.low, result.high), (-width, width))
    return result._replace(low=low, high=high)


def _run_test(sample: PairedSample, test: TestName, seed: int) -> PairedTest:
    values = sample.differences
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return PairedTest(mean, -math.inf, math.inf, 1.0, "none", mean, math.nan)
    spread = float(np.std(values, ddof=1))
    if test.startswith("mcnemar") and not sample.passes:
        raise ValueError("McNemar's test is for scores that are all 0 or 1, one answer to a question")
    if sample.clusters is not None and test == "auto":
        return _test_clusters(sample, sample.clusters, seed)
    if test == "auto" and sample.passes:
        test = "mcnemar"
    elif test == "auto":
        test = "t" if count >= T_INTERVAL_FROM else "permutation"
    if test.startswith("mcnemar"):
        low, high = tango_interval(*sample.discordant, count)
        statistic, p = _mcnemar(*sample.discordant, test)
        return PairedTest(mean, low, high, p, test, statistic, spread)
    if np.ptp(values) == 0:
        low, high = _constant_interval(sample)
        p = max(_sign_test_p(mean, count, sides=2), _constant_p(sample))
        return PairedTest(mean, low, high, p, "permutation", mean, spread)
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


def one_sided_p(sample: PairedSample, bound: float, alternative: Literal["less", "greater"]) -> float:
    """Return the p-value of the one-sided test that the mean difference is `less` (or `greater`) than `bound`.

    Uses sign flips or cluster-robust errors with clusters, as in `paired_test`; Tango's score test for pass/fail; else
    a t test. Sign flips and t tests ignore outcomes too rare to be observed. So for scores that were pass or fail, or
    between 0 and 1 with equal differences, p is at least that of Tango's test of the questions.
    """
    sign = -1 if alternative == "less" else 1
    gains = sign * (sample.differences - bound)
    count, mean = len(gains), float(np.mean(gains))
    if count < 2:
        return 1.0
    least = 0.0
    if sample.passes or sample.binary:
        least = float(stats.norm.sf(sign * tango_z(*sample.discordant, count, bound)))
    elif np.ptp(gains) == 0 and mean > 0 and sample.of_shares:
        share = min(mean / (1 + abs(mean - bound)), 1 - 1e-9)  # the largest possible deviation of a question
        least = float(stats.norm.cdf(tango_z(0, 0, count, share)))
    if sample.passes and sample.clusters is None:
        return least
    if mean > 0 and has_heavy_tail(gains, sample.clusters):
        least = max(least, float(hoeffding_p(mean, sample.reach, sample.effective, sides=1)))
    if sample.clusters is not None and has_few_clusters(sample.clusters):
        return max(least, sign_flip_p(gains, sample.clusters))
    if sample.clusters is not None:
        error, freedom = cluster_error(gains, sample.clusters)
    else:
        error, freedom = float(np.std(gains, ddof=1)) / math.sqrt(count), count - 1
    if error < 1e-12:
        return max(least, _sign_test_p(mean, freedom + 1, sides=1)) if mean > 0 else 1.0
    return max(least, float(stats.t.sf(mean / error, freedom)))


def equivalence_p(sample: PairedSample, margin: float) -> float:
    """Return the p-value of two one-sided tests (Schuirmann 1987) that the difference lies within `margin` of zero."""
    return max(one_sided_p(sample, margin, "less"), one_sided_p(sample, -margin, "greater"))


def omnibus(scores: Numbers, *, passes: bool) -> Omnibus | None:
    """Run Cochran's Q for pass/fail, else Friedman's test, on `scores` (questions x arms).

    Return None for fewer than three arms or two questions.
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


def adjust(p_values: list[float], method: Literal["holm", "fdr_bh"] = "holm") -> list[float]:
    """Correct p-values for multiple tests by the family-wise error rate (Holm 1979) or the false discovery rate
    (Benjamini and Hochberg 1995)."""
    if len(p_values) < 2:
        return list(p_values)
    return [float(p) for p in multipletests(p_values, method=method)[1]]


def _constant_interval(sample: PairedSample) -> tuple[float, float]:
    """Return the interval of equal differences: that of `interval_around` for scores from 0 to 1, else a point."""
    mean = float(np.mean(sample.differences))
    return interval_around(mean, sample.effective, -1.0, 1.0) if sample.of_shares else (mean, mean)


def _constant_p(sample: PairedSample) -> float:
    """Return a lower limit for the p-value of equal differences, since other differences may be too rare to observe."""
    return float(unobserved_p(np.mean(sample.differences), sample.effective)) if sample.of_shares else 0.0


def _apply_hoeffding(sample: PairedSample, result: PairedTest) -> PairedTest:
    """Return the result, widened to Hoeffding's bound if the differences have a heavy tail."""
    if not has_heavy_tail(sample.differences, sample.clusters):
        return result
    p = max(result.p, float(hoeffding_p(result.difference, sample.reach, sample.effective)))
    distance = hoeffding_distance(sample.reach, sample.effective, CONFIDENCE)
    bound = result.difference - math.copysign(distance, result.difference)
    low, high = min(result.low, bound), max(result.high, bound)
    return result._replace(low=low, high=high, p=p, test="hoeffding", statistic=result.difference)


def sign_flip_p(gains: Numbers, clusters: NDArray[np.intp], *, seed: int = 0) -> float:
    """Return the one-sided p-value that the mean is above zero, by flipping the signs of whole clusters.

    A flip gives a mean at least as large as the observed one if the flipped clusters have a mean of zero or less.
    """
    means = means_of_sets(gains, clusters, seed)
    return float((1 + np.sum(means <= 0)) / (1 + len(means)))


def _test_clusters(sample: PairedSample, clusters: NDArray[np.intp], seed: int) -> PairedTest:
    values = sample.differences
    mean = float(np.mean(values))
    error, freedom = cluster_error(values, clusters)
    spread = error * math.sqrt(len(values))
    constant = np.ptp(values) == 0
    low, high = _constant_interval(sample) if constant else cluster_interval(values, clusters, seed=seed)
    if has_few_clusters(clusters):
        above, below = sign_flip_p(values, clusters, seed=seed), sign_flip_p(-values, clusters, seed=seed)
        p = min(1.0, 2 * above, 2 * below)
        p = max(p, _constant_p(sample)) if constant else p
        return PairedTest(mean, low, high, p, "cluster-permutation", mean, spread)
    if error < 1e-12:
        p = max(_sign_test_p(mean, freedom + 1, sides=2), _constant_p(sample))
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
    """Return the sum of the positive ranks, as R does, and the two-sided p-value; zero differences are left out."""
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


def _sign_test_p(shift: float, count: int, *, sides: int) -> float:
    """Return the sign test's p-value of `count` equal differences, which have no spread for a t test."""
    return min(1.0, sides * 0.5**count) if abs(shift) > 1e-12 else 1.0
