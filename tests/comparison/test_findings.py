"""Every figure, reason and note of a comparison, by hand or from the functions that compute it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fledge.comparison.findings import Pair
from fledge.comparison.intervals import mean_interval
from fledge.comparison.options import CompareOptions
from fledge.comparison.power import plan
from fledge.comparison.statistics import PairedSample, equivalence_p, omnibus, one_sided_p, paired_test
from fledge.comparison.verdict import compare_scores
from fledge.core.errors import InputError

RNG = np.random.default_rng(11)
BASE = RNG.normal(5.0, 0.5, 40)
NOISE = RNG.normal(0.0, 0.5, 40)
LEAD = NOISE - NOISE.mean() + 0.1


def _table(topics: Sequence[str] = (), /, **arms: Any) -> pd.DataFrame:
    rows = [
        {"question": f"q{index}", "arm": arm, "quality": float(value), **({"topic": topics[index]} if topics else {})}
        for arm, values in arms.items()
        for index, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def _pair(table: pd.DataFrame, **options: Any) -> Pair:
    return compare_scores(table, "quality", CompareOptions(**options)).pairs[0]


def _topics(count: int, size: int) -> list[str]:
    return [f"t{index // size}" for index in range(count * size)]


def test_summaries_of_arms_and_the_omnibus_test() -> None:
    table = _table(a=BASE, b=BASE + LEAD, c=BASE - 0.1)
    result = compare_scores(table, "quality", CompareOptions(alpha=0.1, margin=0.5, seed=3, all_pairs=True))
    assert [(arm.name, arm.questions) for arm in result.arms] == [("a", 40), ("b", 40), ("c", 40)]
    assert result.arms[1].mean == pytest.approx((BASE + LEAD).mean())
    assert [arm.ci for arm in result.arms] == [mean_interval(v, seed=3) for v in (BASE, BASE + LEAD, BASE - 0.1)]
    assert result.omnibus == omnibus(np.column_stack([BASE, BASE + LEAD, BASE - 0.1]), passes=False)
    assert (result.metric, result.alpha, result.margin, result.correction) == ("quality", 0.1, 0.5, "holm")
    assert [(pair.a, pair.b) for pair in result.pairs] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert (result.pairs[0].metric, result.pairs[0].questions) == ("quality", 40)
    assert (result.baseline, result.higher_is_better, result.planned) == ("a", True, None)
    passes = _table(a=[1, 1, 0, 0] * 5, b=[1, 0, 1, 0] * 5, c=[0, 0, 1, 0] * 5)
    found = compare_scores(passes, "quality")
    assert found.omnibus is not None
    assert found.omnibus.test == "cochran-q"
    assert found.arms[2].ci == mean_interval(np.array([0.0, 0, 1, 0] * 5), passes=True)


def test_summary_of_an_arm_with_topics() -> None:
    topics = _topics(8, 5)
    found = compare_scores(_table(topics, a=BASE, b=BASE + LEAD), "quality")
    clusters = np.repeat(np.arange(8), 5)
    assert found.arms[0].ci == mean_interval(BASE, clusters=clusters)
    alone = compare_scores(_table(topics, a=BASE, b=BASE + LEAD), "quality", CompareOptions(by_topic=False))
    assert alone.arms[0].ci == mean_interval(BASE)


def test_winner_and_leader_if_lower_is_better() -> None:
    table = _table(a=BASE, b=BASE - 1 + LEAD / 9, c=BASE - 2 + LEAD / 9, d=BASE + 1 + LEAD / 9)
    result = compare_scores(table, "quality", higher_is_better=False)
    assert (result.winner, result.leader) == ("c", "c")
    assert [pair.verdict for pair in result.pairs] == ["better", "better", "worse"]
    assert [(pair.wins, pair.losses) for pair in result.pairs] == [(40, 0), (40, 0), (0, 40)]


@pytest.mark.parametrize("higher", [True, False])
def test_p_values_against_the_margin(higher: bool) -> None:
    pair = compare_scores(
        _table(a=BASE, b=BASE + LEAD), "quality", CompareOptions(margin=0.3), higher_is_better=higher
    ).pairs[0]
    sample = PairedSample(BASE + LEAD, BASE)
    assert pair.equivalence_p == pytest.approx(equivalence_p(sample, 0.3))
    loss = one_sided_p(sample, -0.3, "greater") if higher else one_sided_p(sample, 0.3, "less")
    assert pair.non_inferiority_p == pytest.approx(loss)
    assert _pair(_table(a=BASE, b=BASE + LEAD)).non_inferiority_p is None


@pytest.mark.parametrize("arms", [2, 3])
def test_needed_questions_are_those_of_a_plan(arms: int) -> None:
    """Each pair at its share of alpha."""
    names = ["a", "b", "c"][:arms]
    pair = _pair(_table(**{name: BASE + (LEAD if name != "a" else 0) for name in names}))
    expected = plan(pair.difference, sd=float(np.std(LEAD, ddof=1)), arms=arms)
    assert pair.needed_questions == expected.questions - 40
    flat = np.tile([-0.2, 0.2], 10)
    pair = _pair(_table(**{name: BASE[:20] + (flat if name != "a" else 0) for name in names}), margin=0.05)
    expected = plan(0.05, sd=float(np.std(flat, ddof=1)), equivalence=True, arms=arms)
    assert pair.needed_questions == expected.questions - 20


@pytest.mark.parametrize("arms", [2, 3])
def test_needed_questions_of_pass_or_fail_are_those_of_mcnemars_test(arms: int) -> None:
    a, b = [0] * 4 + [1] * 16, [1] * 4 + [0] * 2 + [1] * 14
    pair = _pair(_table(a=a, b=b, c=b) if arms == 3 else _table(a=a, b=b))
    assert (pair.wins, pair.ties, pair.losses) == (4, 14, 2)
    assert pair.needed_questions == plan(0.1, disagreement=0.3, arms=arms).questions - 20


def test_needed_questions_of_shares_with_spread() -> None:
    lead = np.tile([-0.05, 0.25], 4)
    pair = _pair(_table(a=[0.5] * 8, b=0.5 + lead))
    assert pair.needed_questions == plan(0.1, sd=float(np.std(lead, ddof=1))).questions - 8


@pytest.mark.parametrize(("test", "total"), [("permutation", 6), ("wilcoxon", 6), ("t", 3)])
def test_needed_questions_reach_what_the_test_can_show(test: str, total: int) -> None:
    """For a lead of 1.25 with a spread of 0.35; sign flips and ranks of less than six questions never reach 5 %."""
    assert _pair(_table(a=[5.0, 6.0], b=[6.0, 7.5]), test=test).needed_questions == total - 2


def test_needed_questions_for_equivalence_of_two_similar_questions() -> None:
    pair = _pair(_table(a=[0.5, 0.6], b=[0.51, 0.59]), margin=0.05)
    assert pair.verdict == "inconclusive"
    assert pair.needed_questions == plan(0.05, sd=0.01 * math.sqrt(2), equivalence=True).questions - 2


def test_needed_questions_for_equivalence_of_equal_topics() -> None:
    """As without topics, 52 questions that all pass show equivalence within 5 points."""
    pair = _pair(_table(_topics(12, 2), a=[1] * 24, b=[1] * 24), margin=0.05)
    assert pair.needed_questions == 52 - 24


def test_needed_questions_if_one_topic_carries_the_mean() -> None:
    """The skewness of 1 topic of 12 is 0.870 for their mean: small from 12 * 0.870**2 / 0.15**2 = 404.04 topics on."""
    lead = np.where(np.arange(48) < 4, -0.9, 0.5)
    pair = _pair(_table(_topics(12, 4), a=np.zeros(48), b=lead))
    assert (pair.test, pair.verdict) == ("hoeffding", "inconclusive")
    assert pair.needed_questions == 405 * 4 - 48
    assert pair.reason == "the differences are too skewed for 12 topics: a few large ones carry the mean"


def test_range_and_direction_are_those_of_each_metric() -> None:
    """One question has no interval but the range of its metric."""
    table = _table(a=[2.0], b=[3.0]).assign(latency_s=1.5)
    ranges, higher = {"quality": (0.0, 10.0), "latency_s": (0.0, 60.0)}, {"latency_s": False}
    result = compare_scores(
        table,
        "quality",
        CompareOptions(guards=("latency_s<=+10%",)),
        range_of=lambda metric: ranges[metric],
        direction_of=lambda metric: higher[metric],
    )
    assert result.arms[0].ci == (0.0, 10.0)
    assert result.pairs[0].ci == (-10.0, 10.0)
    assert result.pairs[0].guards[0].ci == (-60.0, 60.0)


@pytest.mark.parametrize("by_topic", [True, False])
def test_guards_treat_topics_as_the_metric_does(by_topic: bool) -> None:
    table = _table(_topics(8, 5), a=BASE, b=BASE + LEAD)
    pair = _pair(table, guards=("quality>=-0.5",), by_topic=by_topic)
    clusters = np.repeat(np.arange(8), 5) if by_topic else None
    sample = PairedSample(BASE + LEAD, BASE, clusters=clusters)
    assert pair.guards[0].p == pytest.approx(one_sided_p(sample, -0.5, "greater"))
    assert (pair.p, pair.statistic) == pytest.approx((paired_test(sample).p, paired_test(sample).statistic))


def test_a_decided_pair_needs_no_more_questions() -> None:
    pair = _pair(_table(a=BASE, b=BASE + 5 * LEAD, c=BASE + 2 + LEAD))
    assert (pair.verdict, pair.needed_questions is None) == ("inconclusive", False)
    better = compare_scores(_table(a=BASE, b=BASE + 2 + LEAD), "quality").pairs[0]
    assert (better.verdict, better.needed_questions, better.reason) == ("better", None, None)


def test_comparison_depends_on_the_seed() -> None:
    table = _table(a=BASE, b=BASE + LEAD)
    assert _pair(table, seed=1) == _pair(table, seed=1)
    assert _pair(table, seed=1).ci != _pair(table, seed=2).ci


def test_leader_by_own_questions_if_the_arms_share_none() -> None:
    table = _table(a=[1.0, 2.0, 3.0, 4.0], b=[5.0, 5.0, math.nan, math.nan], c=[math.nan, math.nan, 6.0, 6.0])
    assert compare_scores(table, "quality").leader == "c"


def test_reasons() -> None:
    assert _pair(_table(a=[0.5], b=[0.5])).reason is None
    assert _pair(_table(a=[0.5, 0.6], b=[0.5, 0.6])).reason == "both have the same score on every question"
    assert _pair(_table(a=BASE, b=BASE + LEAD)).reason is None
    assert _pair(_table(a=BASE, b=BASE + LEAD, c=BASE + LEAD)).reason is None
    lead = np.array([1.0] * 6 + [0.0] * 14)  # 2 of 2**6 is 3 %, above the half of 5 %
    pair = _pair(_table(a=BASE[:20], b=BASE[:20] + lead, c=BASE[:20] + LEAD[:20]), test="permutation")
    assert pair.verdict == "inconclusive"
    assert pair.reason == f"p = {pair.p:.2g} is not significant after correction for 2 pairs (Holm)"


@pytest.mark.parametrize(
    ("topics", "options", "notes"),
    [
        (5, {}, ["questions of one topic are treated as related: 5 topics; more topics narrow the interval"]),
        (
            6,
            {},
            [
                "questions of one topic are treated as related: 6 topics; more topics narrow the interval",
                "so few topics give wide intervals; --independent treats all questions as independent",
            ],
        ),
        (10, {}, ["questions of one topic are treated as related: 10 topics; more topics narrow the interval"]),
        (1, {}, ["all questions have the same topic and are treated as independent"]),
        (10, {"test": "t"}, ["the test t treats all questions as independent, even those of one topic"]),
        (10, {"by_topic": False}, []),
        (1, {"by_topic": False}, []),
    ],
)
def test_notes_on_topics(topics: int, options: dict[str, Any], notes: list[str]) -> None:
    table = _table(_topics(topics, 4), a=BASE[: topics * 4], b=(BASE + LEAD)[: topics * 4])
    assert list(compare_scores(table, "quality", CompareOptions(**options)).notes) == notes


@pytest.mark.parametrize(
    ("plan", "options", "departures"),
    [
        ({"metric": "other"}, {}, ("other was pre-registered, not quality",)),
        ({"metric": None}, {}, ("no metric was pre-registered, not quality",)),
        ({"metric": "quality"}, {"alpha": 0.2}, ("alpha is 0.2, and 0.05 was pre-registered",)),
        ({"metric": "quality", "alpha": 0.2}, {"alpha": 0.1}, ()),
        ({"metric": "quality", "alpha": 0.01}, {}, ()),
        ({"metric": "quality", "alpha": 0.01}, {"alpha": 0.05}, ("alpha is 0.05, and 0.01 was pre-registered",)),
        ({}, {"alpha": 0.2, "test": "t"}, ()),
    ],
)
def test_departures_from_the_plan(plan: dict[str, Any], options: dict[str, Any], departures: tuple[str, ...]) -> None:
    table = _table(["same"] * 40, a=BASE, b=BASE + LEAD)
    result = compare_scores(table, "quality", CompareOptions(**options), planned=plan or None)
    assert result.departures == departures
    assert result.planned == (plan or None)
    flat = compare_scores(table, "quality", CompareOptions(by_topic=False), planned={"metric": "quality"})
    assert flat.departures == ()  # there is one topic
    two = _table(_topics(2, 20), a=BASE, b=BASE + LEAD)
    flat = compare_scores(two, "quality", CompareOptions(by_topic=False), planned={"metric": "quality"})
    assert flat.departures == ("questions of one topic were treated as independent",)


@pytest.mark.parametrize(
    ("options", "higher", "hint"),
    [
        ({"baseline": "z"}, None, "arms: a, b"),
        ({"guards": ("ttft_s<=+10%",)}, None, "one of: quality, latency_s"),
        ({"guards": ("quality<=+2",)}, True, "limit the loss: quality>=-2"),
        ({"guards": ("latency_s>=-0.1",)}, False, "limit the loss: latency_s<=+0.1"),
        ({"test": "mcnemar"}, None, "--test auto"),
    ],
)
def test_hint_of_a_refused_comparison(options: dict[str, Any], higher: bool | None, hint: str) -> None:
    table = _table(a=BASE, b=BASE + LEAD).assign(latency_s=1.0)
    with pytest.raises(InputError) as caught:
        compare_scores(table, "quality", CompareOptions(**options), direction_of=lambda _: higher)
    assert caught.value.hint == hint


def test_guard_in_the_wrong_direction_is_refused_if_the_direction_is_known() -> None:
    table = _table(a=BASE, b=BASE + LEAD).assign(latency_s=1.0)
    with pytest.raises(InputError, match=r"guard 'latency_s>=-0.1': latency_s is better when lower"):
        compare_scores(table, "quality", CompareOptions(guards=("latency_s>=-0.1",)), direction_of=lambda _: False)
    free = compare_scores(table, "quality", CompareOptions(guards=("latency_s>=-0.1",)))  # of an unknown direction
    assert free.pairs[0].guards[0].passed
