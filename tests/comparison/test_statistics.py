"""Published results with their sources, and edge cases."""

import math
from typing import Literal

import numpy as np
import pytest

from fledge.comparison.intervals import cluster_error
from fledge.comparison.statistics import (
    PairedSample,
    adjust,
    equivalence_p,
    omnibus,
    one_sided_p,
    paired_test,
)

# Student (1908), extra hours of sleep with two drugs, as in R's `sleep`; R's t.test(paired = TRUE) gives the figures.
SLEEP = PairedSample(
    np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]),
    np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]),
)
# Hollander and Wolfe (1973), p. 29: Hamilton depression scale before and after; as in the examples of R's wilcox.test.
DEPRESSION = PairedSample(
    np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]),
    np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]),
)

SIDES: tuple[Literal["less"], Literal["greater"]] = ("less", "greater")


def table(both: int, only_a: int, only_b: int, neither: int) -> PairedSample:
    """Pass/fail of two arms from the four counts."""
    a = np.repeat([1.0, 1.0, 0.0, 0.0], [both, only_a, only_b, neither])
    b = np.repeat([1.0, 0.0, 1.0, 0.0], [both, only_a, only_b, neither])
    return PairedSample(a, b, passes=True)


# Agresti (1990), p. 350: approval of a prime minister in two surveys; as in the examples of R's mcnemar.test.
APPROVAL = table(794, 86, 150, 570)


def test_student_sleep() -> None:
    result = paired_test(SLEEP, "t")
    assert result.test == "t"
    assert result.difference == pytest.approx(-1.58)
    assert result.statistic == pytest.approx(-4.0621, abs=5e-5)
    assert result.p == pytest.approx(0.002833, abs=5e-7)
    assert (result.low, result.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert result.spread == pytest.approx(1.229995, abs=5e-7)  # R: sd()


def test_student_sleep_by_permutation() -> None:
    # Ten pairs have 1,024 sign flips, so the test is exact: 4 of them are as extreme (one difference is zero).
    assert paired_test(SLEEP).p == pytest.approx(4 / 1024)
    assert paired_test(SLEEP).test == "permutation"


def test_hollander_wolfe_depression() -> None:
    result = paired_test(DEPRESSION, "wilcoxon")
    assert result.statistic == 40
    assert result.p / 2 == pytest.approx(0.01953, abs=5e-6)


def test_approval_ratings() -> None:
    plain = paired_test(APPROVAL, "mcnemar-chi2")
    corrected = paired_test(APPROVAL, "mcnemar-chi2-corrected")
    assert plain.statistic == pytest.approx(17.356, abs=5e-4)
    assert corrected.statistic == pytest.approx(16.818, abs=5e-4)
    assert plain.p == pytest.approx(3.1e-5, abs=5e-7)
    assert paired_test(APPROVAL).p == pytest.approx(3.716e-5, abs=5e-9)  # the exact test


def test_kojima_2022_single_eq() -> None:
    """Kojima et al. (2022), SingleEq: "Let's think step by step" against zero-shot, counted from their answers."""
    result = paired_test(table(333, 63, 46, 66))
    assert result.test == "mcnemar"
    assert result.difference == pytest.approx(0.0335, abs=5e-5)
    assert result.p == pytest.approx(0.125, abs=5e-4)
    assert result.low < 0 < result.high


# Benjamini and Hochberg (1995), section 4: fifteen hypotheses on rt-PA and APSAC after an infarction.
BH_1995 = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528]
BH_1995 += [0.7590, 1.0]


def test_benjamini_hochberg_1995() -> None:
    # The paper: Bonferroni and Holm reject three of them at 5 %, controlling the false discovery rate four.
    holm, false_discoveries = adjust(BH_1995), adjust(BH_1995, "fdr_bh")
    assert sum(p <= 0.05 for p in holm) == 3
    assert sum(p <= 0.05 for p in false_discoveries) == 4
    # R: p.adjust(p, "holm")[1:4] and p.adjust(p, "BH")[1:4]
    assert holm[:4] == pytest.approx([0.0015, 0.0056, 0.0247, 0.1140])
    assert false_discoveries[:4] == pytest.approx([0.0015, 0.0030, 0.0095, 0.035625])


def test_adjusting_no_p_values_gives_none() -> None:
    assert adjust([]) == []
    assert adjust([0.04]) == [0.04]
    assert adjust([0.01, 0.04]) == pytest.approx([0.02, 0.04])


def test_many_questions_use_the_t_test() -> None:
    values = np.random.default_rng(1).normal(0.1, 1.0, 5000)
    result = paired_test(PairedSample(values, np.zeros(5000)))
    assert result.test == "t"
    half = 1.96 * values.std(ddof=1) / math.sqrt(5000)
    assert (result.low, result.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-3)


def test_result_depends_on_the_seed_only() -> None:
    sample = PairedSample(np.random.default_rng(1).normal(0.1, 1.0, 40), np.zeros(40))
    assert paired_test(sample, seed=1) == paired_test(sample, seed=1)
    assert paired_test(sample, seed=1).low != paired_test(sample, seed=2).low


def test_many_clusters_of_one_size_are_a_t_test_of_their_means() -> None:
    rng = np.random.default_rng(4)
    topics = np.repeat(np.arange(120), 5)
    values = rng.normal(0.2, 1.0, 600) + np.repeat(rng.normal(0, 1.0, 120), 5)
    result = paired_test(PairedSample(values, np.zeros(600), clusters=topics))
    of_means = paired_test(PairedSample(values.reshape(120, 5).mean(axis=1), np.zeros(120)), "t")
    assert result.test == "cluster-t"
    assert result.statistic == pytest.approx(of_means.statistic, rel=1e-6)
    assert (result.p, result.low, result.high) == pytest.approx((of_means.p, of_means.low, of_means.high), rel=1e-6)
    error, freedom = cluster_error(values, topics)
    assert (result.difference, result.spread) == pytest.approx((values.mean(), error * math.sqrt(600)))
    assert freedom == 119
    sides = [one_sided_p(PairedSample(values, np.zeros(600), clusters=topics), 0.0, side) for side in SIDES]
    assert sides == pytest.approx([1 - result.p / 2, result.p / 2])
    flat = paired_test(PairedSample(values, np.zeros(600)), "t")
    assert result.high - result.low > flat.high - flat.low


def test_few_clusters_use_sign_flips_of_whole_clusters() -> None:
    topics = np.array([0, 1, 1, 2, 2, 2, 3, 4, 5, 5])
    values = np.array([0.2, 0.1, 0.3, 0.2, -0.1, 0.3, 0.4, 0.1, 0.2, 0.5])
    result = paired_test(PairedSample(values, np.zeros(10), clusters=topics))
    # Each of the six topics gains: of 64 ways to set their signs, two are as extreme.
    assert (result.test, result.p, result.statistic) == ("cluster-permutation", 2 / 64, result.difference)
    assert paired_test(PairedSample(values + 0.5, np.full(10, 0.5), clusters=topics)).p == 2 / 64  # of shares too
    assert 0 < result.low < values.mean() < result.high
    # With one question per topic it is the permutation test.
    alone = PairedSample(SLEEP.a, SLEEP.b, clusters=np.arange(10))
    assert paired_test(alone).p == pytest.approx(paired_test(SLEEP).p)


def test_five_clusters_cannot_reach_significance() -> None:
    sample = PairedSample(np.repeat(1.0, 10) + np.arange(10) / 100, np.zeros(10), clusters=np.repeat(np.arange(5), 2))
    result = paired_test(sample)
    assert result.p == 2 / 32
    assert (result.low, result.high) == (-math.inf, math.inf)


def test_cluster_interval_inverts_the_sign_flip_test() -> None:
    rng = np.random.default_rng(8)
    topics = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 8, 9])
    sample = PairedSample(rng.normal(0.3, 1.0, 45), np.zeros(45), clusters=topics)
    result = paired_test(sample)
    for bound, alternative in ((result.low, "greater"), (result.high, "less")):
        assert one_sided_p(sample, bound - 1e-9 if alternative == "greater" else bound + 1e-9, alternative) <= 0.025  # type: ignore[arg-type]
        assert one_sided_p(sample, bound + 1e-9 if alternative == "greater" else bound - 1e-9, alternative) > 0.024  # type: ignore[arg-type]


def test_one_sided_p_is_half_the_two_sided() -> None:
    two = paired_test(SLEEP, "t").p
    assert one_sided_p(SLEEP, 0.0, "less") == pytest.approx(two / 2)
    assert one_sided_p(SLEEP, 0.0, "greater") == pytest.approx(1 - two / 2)


def test_one_sided_p_of_two_questions() -> None:
    sample = PairedSample(np.array([1.0, 2.0]), np.zeros(2))
    assert one_sided_p(sample, 0.0, "greater") == pytest.approx(0.5 - math.atan(3) / math.pi)  # t = 3


def test_one_sided_p_of_pass_or_fail_is_half_of_mcnemars() -> None:
    swapped = PairedSample(APPROVAL.b, APPROVAL.a, passes=True)
    half = paired_test(APPROVAL, "mcnemar-chi2").p / 2
    assert [one_sided_p(APPROVAL, 0.0, side) for side in SIDES] == pytest.approx([half, 1 - half], rel=1e-6, abs=0)
    assert one_sided_p(swapped, 0.0, "greater") == pytest.approx(half, rel=1e-6, abs=0)
    two_wins = table(0, 2, 0, 0)
    assert one_sided_p(two_wins, 0.0, "greater") == pytest.approx(0.0786, abs=5e-5)  # z is the square root of 2
    wins = PairedSample(np.ones(12), np.zeros(12), passes=True, clusters=np.repeat(np.arange(6), 2))
    assert one_sided_p(wins, 0.0, "greater") == 1 / 64  # six topics allow no less


def test_one_sided_p_of_equal_differences() -> None:
    """Tango's test of no disagreement against a share d has z = sqrt(n d / (1 - d)); here d = (0.3 - 0.2) / (1 + 0.2)
    and n = 44, thus z = 2. Without bounds it is the sign test."""
    shares = PairedSample(np.full(44, 0.7), np.full(44, 0.5))
    assert one_sided_p(shares, 0.3, "less") == pytest.approx(0.02275, abs=5e-6)
    assert one_sided_p(shares, 0.3, "greater") == 1.0
    assert one_sided_p(PairedSample(np.full(12, 5.0), np.zeros(12)), 0.0, "greater") == 0.5**12


def test_one_sided_p_if_one_topic_carries_the_mean() -> None:
    """Eleven topics gain 0.1 and one loses 0.9: by Hoeffding's bound, exp(-12 mean**2 / 2), that shows nothing."""
    topics = np.arange(1200) % 12
    gains = np.where(topics == 0, -0.9, 0.1)
    p = one_sided_p(PairedSample(gains, np.zeros(1200), clusters=topics), 0.0, "greater")
    assert p == pytest.approx(math.exp(-6 * (0.2 / 12) ** 2))


def test_equivalence_by_hand() -> None:
    rng = np.random.default_rng(2)
    sample = PairedSample(rng.normal(0.0, 0.1, 50), np.zeros(50))
    error = sample.a.std(ddof=1) / math.sqrt(50)
    p = equivalence_p(sample, 0.05)
    from scipy import stats

    assert p == pytest.approx(stats.t.sf((0.05 - abs(sample.a.mean())) / error, 49))
    assert equivalence_p(sample, 0.001) > 0.05


def test_equivalence_of_pass_fail_needs_many_questions() -> None:
    assert equivalence_p(table(20, 0, 0, 0), 0.02) > 0.05
    assert equivalence_p(table(400, 0, 0, 0), 0.02) < 0.05


def test_cochran_by_hand() -> None:
    """Columns of 9, 5 and 4 passes: Q = 2 (3 * 122 - 18**2) / (3 * 18 - 40) = 6, and p = exp(-Q / 2)."""
    rows = [[1, 0, 0]] * 4 + [[1, 1, 0]] * 2 + [[0, 0, 1]] + [[1, 1, 1]] * 3
    assert omnibus(np.array(rows, dtype=float), passes=True) == pytest.approx(("cochran-q", 6.0, math.exp(-3), 10))


def test_omnibus_of_two_questions() -> None:
    same_order = omnibus(np.array([[0.1, 0.2, 0.3], [0.4, 0.6, 0.7]]), passes=False)
    assert same_order == pytest.approx(("friedman", 4.0, math.exp(-2), 2))
    no_difference = omnibus(np.array([[0.1, 0.1, 0.1], [0.4, 0.4, 0.4]]), passes=False)
    assert no_difference == ("friedman", 0.0, 1.0, 2)
    assert omnibus(np.array([[0.1, 0.2, 0.3]]), passes=False) is None


def test_omnibus_of_friedman_and_cochran() -> None:
    # Hollander and Wolfe (1973), p. 140: rounding first base; R's friedman.test gives 11.143, p = 0.003805.
    rounding = np.array(
        [
            [5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40], [5.90, 5.85, 5.70],
            [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35], [5.25, 5.15, 5.00], [5.85, 5.80, 5.70],
            [5.25, 5.20, 5.10], [5.65, 5.55, 5.45], [5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40],
            [5.45, 5.55, 5.50], [5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40],
            [5.70, 5.65, 5.55], [6.30, 6.30, 6.25],
        ]
    )  # fmt: skip
    result = omnibus(rounding, passes=False)
    assert result is not None
    assert (result.test, result.questions) == ("friedman", 22)
    assert result.statistic == pytest.approx(11.143, abs=5e-4)
    assert result.p == pytest.approx(0.003805, abs=5e-7)
    alike = omnibus(np.ones((5, 3)), passes=True)
    assert alike is not None
    assert (alike.test, alike.p) == ("cochran-q", 1.0)
    assert omnibus(rounding[:, :2], passes=False) is None


@pytest.mark.parametrize("test", ["auto", "t", "wilcoxon", "permutation"])
def test_degenerate_scores_have_clear_outcomes(test: str) -> None:
    def of(values: list[float]) -> tuple[float, float, float]:
        result = paired_test(PairedSample(np.array(values), np.zeros(len(values))), test)  # type: ignore[arg-type]
        return result.p, result.low, result.high

    assert of([0.3]) == (1.0, -math.inf, math.inf)
    unseen = 1.96**2 / (12 + 1.96**2)  # Wilson's interval of 0 of 12
    assert of([0.0] * 12) == pytest.approx((1.0, -unseen, unseen), abs=1e-4)
    # p of 12 equal differences allows for unobserved questions that differ by 1 the other way: sqrt(12 * 0.5) = 2.449.
    assert of([0.5] * 12) == pytest.approx((0.0143, 0.5 - 1.5 * unseen, 0.5 + 0.5 * unseen), abs=1e-4)
    assert of([5.0] * 12) == (2 / 2**12, 5.0, 5.0)  # without bounds it is the sign test
    p, low, high = of([0.1, 0.4])
    assert p > 0.05
    assert low < 0.25 < high


@pytest.mark.parametrize("test", ["auto", "mcnemar-chi2", "mcnemar-chi2-corrected"])
def test_degenerate_passes_have_clear_outcomes(test: str) -> None:
    ties = paired_test(table(5, 0, 0, 5), test)  # type: ignore[arg-type]
    assert (ties.p, ties.difference, ties.statistic) == (1.0, 0.0, 0.0)
    assert ties.low == pytest.approx(-ties.high)
    assert ties.high > 0.2  # ten ties do not prove equivalence


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize("topics", [None, 12])
def test_one_sided_tests_allow_for_unobserved_failures(passes: bool, topics: int | None) -> None:
    """Also with topics, and with averaged samples."""
    none = np.zeros(24)
    clusters = np.repeat(np.arange(topics), 24 // topics) if topics else None
    sample = PairedSample(none, none, passes, clusters, binary=True)
    plain = one_sided_p(PairedSample(none, none, passes=True), 0.01, "less")
    assert one_sided_p(sample, 0.01, "less") >= plain > 0.3
    assert equivalence_p(sample, 0.05) > 0.1
    assert equivalence_p(PairedSample(none, none, clusters=clusters), 0.05) > 0.1  # also for equal scores
    many = np.zeros(400)
    assert one_sided_p(PairedSample(many, many, binary=True), 0.01, "less") < 0.05


def test_mcnemar_of_as_many_wins_as_losses() -> None:
    exact, plain = paired_test(table(5, 3, 3, 5), "mcnemar"), paired_test(table(5, 3, 3, 5), "mcnemar-chi2")
    assert (exact.p, exact.statistic) == (1.0, 3.0)
    assert (plain.p, plain.statistic) == (1.0, 0.0)


def test_mcnemar_needs_no_bound_for_heavy_tails() -> None:
    """It is exact: 3 losses among 33 disagreements have twice the probability of at most 3 heads of 33."""
    result = paired_test(table(0, 30, 3, 0))
    heads = sum(math.comb(33, count) for count in range(4))
    assert result.test == "mcnemar"
    assert result.p == pytest.approx(2 * heads / 2**33, abs=0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_interval_reaches_hoeffdings_bound_if_one_topic_carries_the_mean(sign: int) -> None:
    """Eleven topics gain 0.1 and one loses 0.9; the bound is sqrt(2 log(40) / 12) from the mean."""
    topics = np.arange(1200) % 12
    gains = sign * np.where(topics == 0, -0.9, 0.1)
    result = paired_test(PairedSample(gains, np.zeros(1200), clusters=topics))
    assert (result.test, result.p, result.statistic) == ("hoeffding", 1.0, result.difference)
    near, far = sorted((result.low, result.high), key=abs)
    assert far == pytest.approx(gains.mean() - sign * math.sqrt(2 * math.log(40) / 12))
    assert 0 < sign * near < 0.15  # the other end stays


@pytest.mark.parametrize("sign", [-1, 1])
def test_interval_ends_at_the_largest_possible_difference(sign: int) -> None:
    high, low = np.array([5.0, 5.0, 5.0]), np.array([1.0, 1.0, 3.0])
    a, b = (high, low) if sign > 0 else (low, high)
    result = paired_test(PairedSample(a, b, bounds=(1.0, 5.0)), "t")
    ends = sorted((result.low, result.high), key=abs)
    assert ends == pytest.approx([sign * (10 - 4.302653 * 2) / 3, sign * 4.0], abs=1e-6)  # unclipped it ends at 6.2


def test_one_question_has_no_test() -> None:
    result = paired_test(PairedSample(np.array([0.9]), np.array([0.5])))
    assert result.test == "none"
    assert (result.statistic, result.difference) == pytest.approx((0.4, 0.4))
    assert math.isnan(result.spread)


def test_equal_scores_outside_of_shares_show_no_difference() -> None:
    same = PairedSample(np.full(12, 5.0), np.full(12, 5.0))
    assert (paired_test(same).p, paired_test(same).statistic) == (1.0, 0.0)


def test_mcnemar_rejects_scores() -> None:
    with pytest.raises(ValueError, match=r"^McNemar's test is for scores that are all 0 or 1"):
        paired_test(SLEEP, "mcnemar")


@pytest.mark.parametrize(("count", "test"), [(99, "cluster-permutation"), (100, "cluster-t")])
def test_t_test_from_a_hundred_clusters(count: int, test: str) -> None:
    values = np.random.default_rng(0).normal(0.1, 1.0, 2 * count)
    assert paired_test(PairedSample(values, np.zeros(2 * count), clusters=np.repeat(np.arange(count), 2))).test == test


@pytest.mark.parametrize("sign", [-1, 1])
def test_result_of_random_sets_of_clusters_depends_on_the_seed_only(sign: int) -> None:
    values = sign * np.random.default_rng(0).normal(0.2, 1.0, 40)
    sample = PairedSample(values, np.zeros(40), clusters=np.repeat(np.arange(20), 2))
    first, again, other = (paired_test(sample, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.p != other.p
    assert first.low != other.low
    assert one_sided_p(sample, 0.0, "less") == one_sided_p(sample, 0.0, "less")


def test_equal_differences_with_clusters() -> None:
    """The figures of as many questions without clusters; without bounds it is the sign test of the clusters."""
    shares = PairedSample(np.full(24, 0.5), np.zeros(24), clusters=np.repeat(np.arange(12), 2))
    alone = PairedSample(np.full(12, 0.5), np.zeros(12))
    assert paired_test(shares)[1:4] == pytest.approx(paired_test(alone)[1:4])
    large = paired_test(PairedSample(np.full(240, 5.0), np.zeros(240), clusters=np.repeat(np.arange(120), 2)))
    assert (large.difference, large.low, large.high, large.statistic, large.spread) == (5.0, 5.0, 5.0, 0.0, 0.0)
    assert (large.test, large.p) == ("cluster-t", 2 / 2**120)


@pytest.mark.parametrize("count", [3, 120])
def test_clusters_without_spread(count: int) -> None:
    topics = np.repeat(np.arange(count), 4)
    same = paired_test(PairedSample(np.zeros(4 * count), np.zeros(4 * count), clusters=topics))
    assert same.p == 1.0
    shifted = paired_test(PairedSample(np.ones(4 * count), np.zeros(4 * count), clusters=topics))
    assert shifted.p == pytest.approx(2 / 2**count)
