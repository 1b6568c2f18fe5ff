import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fledge.comparison.options import CompareOptions
from fledge.comparison.verdict import compare_scores
from fledge.core.errors import InputError


def _table(**arms: list[float]) -> pd.DataFrame:
    rows = [
        {"question": f"q{index}", "arm": arm, "quality": value}
        for arm, values in arms.items()
        for index, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def _noise(mean: float, seed: int, count: int = 60) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, 0.1, count))


def test_better_worse_and_inconclusive() -> None:
    base = _noise(0.5, 1)
    table = _table(
        base=base,
        good=[x + y for x, y in zip(base, _noise(0.1, 2), strict=True)],
        bad=_noise(0.3, 3),
        same=_noise(0.5, 4),
    )
    result = compare_scores(table, "quality")
    assert result.baseline == "base"
    assert {pair.a: pair.verdict for pair in result.pairs} == {"good": "better", "bad": "worse", "same": "inconclusive"}
    assert result.winner == "good"
    assert all(pair.ci[0] <= pair.difference <= pair.ci[1] for pair in result.pairs)
    assert all(pair.p_adjusted >= pair.p for pair in result.pairs)


def test_inconclusive_summary_gives_the_questions_needed() -> None:
    result = compare_scores(_table(a=_noise(0.5, 1, 10), b=_noise(0.52, 2, 10)), "quality")
    pair = result.pairs[0]
    assert pair.verdict == "inconclusive"
    assert pair.needed_questions is not None
    assert pair.needed_questions > 0
    assert f"ask about {pair.needed_questions:,} more" in pair.summary()
    assert result.winner is None


def test_the_leader_is_not_the_winner() -> None:
    result = compare_scores(_table(a=_noise(0.5, 1, 10), b=_noise(0.52, 2, 10)), "quality")
    means = {arm.name: arm.mean for arm in result.arms}
    assert result.leader == max(means, key=lambda name: means[name])


def test_one_question_is_inconclusive() -> None:
    result = compare_scores(_table(a=[0.1], b=[0.9]), "quality")
    assert (result.pairs[0].verdict, result.pairs[0].needed_questions, result.winner) == ("inconclusive", None, None)
    assert "no interval, 1 question); ask more questions" in result.pairs[0].summary()


def test_all_ties_give_the_reason() -> None:
    pair = compare_scores(_table(a=[0.5] * 9, b=[0.5] * 9), "quality").pairs[0]
    assert (pair.verdict, pair.p, pair.needed_questions) == ("inconclusive", 1.0, None)
    assert "both have the same score on every question" in pair.summary()


def test_lower_is_better_reverses_the_verdict() -> None:
    table = _table(slow=_noise(2.0, 1), fast=_noise(1.0, 2))
    result = compare_scores(table, "quality", higher_is_better=False)
    assert result.pairs[0].verdict == "better"
    assert result.pairs[0].difference < 0
    assert result.winner == "fast"


def test_margin_makes_equivalence_possible() -> None:
    base = _noise(0.5, 1)
    table = _table(base=base, twin=[value + 0.001 * (-1) ** n for n, value in enumerate(base)])
    assert compare_scores(table, "quality").pairs[0].verdict == "inconclusive"
    assert compare_scores(table, "quality", CompareOptions(margin=0.02)).pairs[0].verdict == "equivalent"


def test_samples_are_averaged_within_a_question() -> None:
    rows = [
        {"question": q, "arm": arm, "sample": s, "quality": base + s}
        for q, arm, base in [("q1", "a", 0.0), ("q1", "b", 1.0), ("q2", "a", 0.0), ("q2", "b", 3.0)]
        for s in (0, 1)
    ]
    pair = compare_scores(pd.DataFrame(rows), "quality").pairs[0]
    assert (pair.questions, pair.difference) == (2, 2.0)


def test_pairs_use_common_questions_only() -> None:
    table = _table(a=[0.1, 0.2, 0.3], b=[0.2, 0.3, 0.4])
    table = table[~((table["arm"] == "b") & (table["question"] == "q1"))]
    assert compare_scores(table, "quality").pairs[0].questions == 2


def test_all_pairs_and_named_baseline() -> None:
    table = _table(a=_noise(0.5, 1), b=_noise(0.5, 2), c=_noise(0.5, 3))
    assert len(compare_scores(table, "quality", CompareOptions(all_pairs=True)).pairs) == 3
    assert {pair.b for pair in compare_scores(table, "quality", CompareOptions(baseline="c")).pairs} == {"c"}


def test_same_table_same_verdict() -> None:
    table = _table(a=_noise(0.5, 1), b=_noise(0.53, 2))
    assert compare_scores(table, "quality") == compare_scores(table, "quality")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (_table(a=[1.0, 2.0]), "at least two arms"),
        (_table(a=[1.0, 2.0], b=[float("nan"), float("inf")]), "arm 'b' has no value"),
    ],
)
def test_incomparable_tables_are_rejected(table: pd.DataFrame, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        compare_scores(table, "quality")


def test_arms_without_a_common_question_are_rejected() -> None:
    table = pd.DataFrame(
        {"question": ["q1", "q2"], "arm": ["a", "b"], "quality": [1.0, 2.0]},
    )
    with pytest.raises(InputError, match="no question in common"):
        compare_scores(table, "quality")


def test_unknown_baseline_is_rejected() -> None:
    with pytest.raises(InputError, match="no arm 'z'"):
        compare_scores(_table(a=[1.0], b=[2.0]), "quality", CompareOptions(baseline="z"))


def test_no_winner_without_a_better_direction() -> None:
    result = compare_scores(_table(short=_noise(1.0, 1), long=_noise(2.0, 2)), "quality", higher_is_better=None)
    assert result.pairs[0].verdict == "better"
    assert result.winner is None


def test_the_winner_is_the_same_with_all_pairs() -> None:
    table = _table(good=_noise(2.0, 1), middle=_noise(1.5, 2), base=_noise(1.0, 3))
    for all_pairs in (False, True):
        options = CompareOptions(baseline="base", all_pairs=all_pairs)
        assert compare_scores(table, "quality", options).winner == "good"


def test_mcnemar_for_pass_or_fail_with_one_sample_only() -> None:
    table = _table(a=[0.0, 1.0, 1.0, 0.0, 1.0], b=[1.0, 1.0, 1.0, 1.0, 1.0])
    pair = compare_scores(table, "quality").pairs[0]
    assert (pair.test, pair.wins, pair.ties, pair.losses) == ("mcnemar", 2, 3, 0)
    assert pair.difference == pytest.approx(0.4)
    assert compare_scores(pd.concat([table, table]), "quality").pairs[0].test == "permutation"


def test_a_test_can_be_chosen() -> None:
    table = _table(a=_noise(0.5, 1), b=_noise(0.6, 2))
    names = ("t", "wilcoxon", "permutation")
    found = [compare_scores(table, "quality", CompareOptions(test=name)).pairs[0] for name in names]  # type: ignore[arg-type]
    assert [pair.test for pair in found] == list(names)
    assert all(pair.verdict == "better" for pair in found)
    with pytest.raises(InputError, match="all 0 or 1"):
        compare_scores(table, "quality", CompareOptions(test="mcnemar"))


def test_topics_are_clusters() -> None:
    rng = np.random.default_rng(5)
    rows = [
        {"question": f"q{topic}-{number}", "arm": arm, "topic": f"t{topic}", "quality": value + own * (arm == "b")}
        for topic in range(12)
        for own in [rng.normal(0.03, 0.1)]
        for number in range(10)
        for value in [rng.normal(0.5, 0.1)]
        for arm in ("a", "b")
    ]
    table = pd.DataFrame(rows)
    result = compare_scores(table, "quality")
    flat = compare_scores(table, "quality", CompareOptions(by_topic=False))
    assert (result.pairs[0].test, flat.pairs[0].test) == ("cluster-permutation", "permutation")
    assert result.pairs[0].p > flat.pairs[0].p
    assert any("12 topics" in note for note in result.notes)
    assert not any("topic" in note for note in flat.notes)
    alone = table[table["question"].str.endswith("-0")]  # one question of each topic: no clusters
    assert compare_scores(alone, "quality").pairs[0].test == "permutation"


def test_few_topics_give_the_reason() -> None:
    table = _table(a=_noise(0.5, 1), b=_noise(0.6, 2))
    table["topic"] = table["question"].str[-1].map(lambda digit: "even" if int(digit) % 2 == 0 else "odd")
    pair = compare_scores(table, "quality").pairs[0]
    assert (pair.verdict, pair.needed_questions) == ("inconclusive", None)
    assert pair.summary().endswith(
        "; 2 topics are too few to show any difference (at least 6 are needed): "
        "ask about more topics, or compare with --independent"
    )
    three = compare_scores(pd.concat([table, table[table["arm"] == "b"].assign(arm="c")]), "quality")
    assert three.pairs[0].reason is not None
    assert "at least 7 are needed" in three.pairs[0].reason  # at half of 5 % for each pair
    assert compare_scores(table, "quality", CompareOptions(by_topic=False)).pairs[0].verdict == "better"


def test_needed_questions_count_new_topics() -> None:
    rng = np.random.default_rng(2)
    own = np.repeat(rng.normal(0.1, 0.2, 8), 10)
    base = list(rng.normal(0.5, 0.01, 80))
    table = _table(a=base, b=list(base + own))
    table["topic"] = [f"t{index // 10 % 8}" for index in range(160)]
    result = compare_scores(table, "quality")
    needed = result.pairs[0].needed_questions
    assert result.pairs[0].verdict == "inconclusive"
    assert needed is not None
    assert needed % 10 == 0
    # A paired t test of topics 0.55 standard deviations apart takes about 28 of them.
    topics = own.reshape(8, 10)[:, 0]
    assert (80 + needed) / 10 == pytest.approx(8 * (topics.std(ddof=1) / topics.mean()) ** 2, rel=0.25)
    assert any("more topics narrow the interval" in note for note in result.notes)


def test_no_winner_if_a_guard_fails() -> None:
    rng = np.random.default_rng(7)
    base = _noise(0.5, 1)
    table = _table(base=base, slow=[x + 0.1 for x in _noise(0.5, 1)], quick=[x + 0.05 for x in _noise(0.5, 1)])
    seconds = {"base": 1.0, "slow": 1.5, "quick": 1.0}
    table["latency_s"] = [seconds[arm] * rng.uniform(0.95, 1.05) for arm in table["arm"]]
    table["quality"] += rng.normal(0, 0.02, len(table))
    free = compare_scores(table, "quality")
    assert free.winner == "slow"
    result = compare_scores(table, "quality", CompareOptions(guards=("latency_s<=+10%",)))
    assert result.winner == "quick"
    passed = {pair.a: pair.guards[0].passed for pair in result.pairs}
    assert passed == {"slow": False, "quick": True}
    only = table[table["arm"] != "quick"]
    none = compare_scores(only, "quality", CompareOptions(guards=("latency_s<=+10%",)))
    assert none.winner is None
    assert none.pairs[0].verdict == "better"
    assert "does not pass the guard latency_s<=+10%" in none.conclusion()


def test_guard_with_wrong_direction_or_unknown_metric_is_rejected() -> None:
    table = _table(a=_noise(0.5, 1), b=_noise(0.6, 2))
    with pytest.raises(InputError, match="no metric 'latency_s'"):
        compare_scores(table, "quality", CompareOptions(guards=("latency_s<=+10%",)))
    with pytest.raises(InputError, match="quality is better when higher"):
        compare_scores(table, "quality", CompareOptions(guards=("quality<=+10%",)), direction_of=lambda _: True)


def test_equivalence_is_adjusted_for_the_number_of_pairs() -> None:
    arms = {name: _noise(0.5, seed) for seed, name in enumerate(("base", "b", "c", "d"), 1)}
    two = compare_scores(_table(base=arms["base"], b=arms["b"]), "quality", CompareOptions(margin=0.05)).pairs[0]
    four = compare_scores(_table(**arms), "quality", CompareOptions(margin=0.05)).pairs[0]
    assert two.equivalence_p is not None
    assert four.equivalence_p is not None
    assert four.equivalence_p > two.equivalence_p
    assert compare_scores(_table(**arms), "quality").pairs[0].equivalence_p is None


def test_needed_questions_for_equivalence_without_a_difference() -> None:
    table = _table(a=_noise(0.5, 1, 12), b=_noise(0.5, 2, 12))
    without = compare_scores(table, "quality").pairs[0].needed_questions
    within = compare_scores(table, "quality", CompareOptions(margin=0.05)).pairs[0].needed_questions
    assert without is not None
    assert within is not None
    assert within < without


def test_needed_questions_reach_the_minimum_of_the_test() -> None:
    """Equal differences: five sign flips cannot reach 5 %, and Tango needs 39 for a difference of 0.1.
    All pass: Tango needs 52 for 5 points."""
    pair = compare_scores(_table(a=[0.1, 0.2], b=[0.2, 0.3]), "quality").pairs[0]
    assert pair.needed_questions == 37
    large = compare_scores(_table(a=[10.0, 20.0], b=[20.0, 30.0]), "quality").pairs[0]
    assert large.needed_questions == 4
    for count, verdict, needed in ((10, "inconclusive", 42), (51, "inconclusive", 1), (52, "equivalent", None)):
        table = _table(a=[1.0] * count, b=[1.0] * count)
        pair = compare_scores(table, "quality", CompareOptions(margin=0.05)).pairs[0]
        assert (pair.verdict, pair.needed_questions) == (verdict, needed)


def test_note_on_duplicate_rows() -> None:
    table = _table(a=_noise(0.5, 1, 12), b=_noise(0.5, 2, 12))
    (note,) = compare_scores(pd.concat([table, table.head(1)]), "quality").notes
    assert note.startswith("1 row with a repeated question and arm")
    assert compare_scores(table, "quality").notes == ()


def test_too_large_numbers_are_rejected() -> None:
    with pytest.raises(InputError, match=r"row 1: 1e\+308 is too large"):
        compare_scores(_table(a=[1e308] * 9, b=[-1e308] * 9), "quality")


def test_needed_questions_reach_the_power() -> None:
    """`needed_questions` more questions detect the observed difference in about 80 of 100 cases."""
    first = compare_scores(_table(a=_noise(0.5, 1, 20), b=_noise(0.53, 9, 20)), "quality").pairs[0]
    assert first.needed_questions is not None
    spread = np.std(np.subtract(_noise(0.53, 9, 20), _noise(0.5, 1, 20)), ddof=1)
    rng, found = np.random.default_rng(0), 0
    for _ in range(200):
        values = rng.normal(first.difference, spread, 20 + first.needed_questions)
        t = values.mean() / values.std(ddof=1) * np.sqrt(len(values))
        found += abs(t) > 1.97
    assert 0.7 < found / 200 < 0.9


def test_note_on_missing_scores() -> None:
    table = _table(a=[0.1, 0.2, 0.3, 0.4], b=[0.2, 0.3, float("nan"), float("inf")])
    result = compare_scores(table, "quality")
    assert result.pairs[0].questions == 2
    assert any("2 answers of b without quality" in note for note in result.notes)
    assert any("2 of 4 questions lack a score" in note for note in result.notes)


def test_leader_by_common_questions() -> None:
    """An arm that answered only the easy questions does not lead."""
    table = _table(a=[0.1, 0.2, 0.9, 0.9], b=[float("nan"), float("nan"), 0.8, 0.85])
    result = compare_scores(table, "quality")
    assert [arm.mean for arm in result.arms] == pytest.approx([0.525, 0.825])
    assert result.leader == "a"


def test_only_the_planned_metric_is_not_exploratory() -> None:
    table = _table(a=_noise(0.5, 1), b=_noise(0.6, 2)).assign(other=1.0)
    assert not compare_scores(table, "quality").exploratory
    assert not compare_scores(table, "quality", planned={"metric": "quality"}).exploratory
    assert compare_scores(table, "quality", planned={"metric": "other"}).exploratory
    plan = {"metric": "quality", "arms": ["a", "b"]}
    assert not compare_scores(table, "quality", CompareOptions(baseline="a"), planned=plan).exploratory
    result = compare_scores(table, "quality", CompareOptions(baseline="b"), planned=plan)
    assert result.departures == ("the baseline is b, and a was pre-registered",)


@pytest.mark.parametrize(
    ("options", "departure"),
    [
        (CompareOptions(alpha=0.2), "alpha is 0.2, and 0.05 was pre-registered"),
        (CompareOptions(test="wilcoxon"), "the test wilcoxon was chosen afterwards"),
        (CompareOptions(by_topic=False), "questions of one topic were treated as independent"),
    ],
)
def test_deviations_from_the_plan_are_exploratory(options: CompareOptions, departure: str) -> None:
    table = _table(a=_noise(0.5, 1), b=_noise(0.6, 2)).assign(topic=lambda rows: rows["question"])
    plan = {"metric": "quality", "alpha": 0.05}
    assert compare_scores(table, "quality", planned=plan).departures == ()
    assert compare_scores(table, "quality", replace(options, alpha=0.01), planned=plan).exploratory == (
        options.alpha is None
    )
    assert compare_scores(table, "quality", options, planned=plan).departures == (departure,)


def test_conclusion_names_a_baseline_that_beats_all() -> None:
    table = _table(a=_noise(0.9, 1), b=_noise(0.2, 2), c=_noise(0.3, 3))
    assert compare_scores(table, "quality").conclusion() == "winner: none. All other arms are worse than a."


def test_a_constant_metric_is_compared_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare_scores(
            _table(a=[1.0] * 8, b=[1.0] * 8, c=[1.0] * 8), "quality", CompareOptions(margin=0.1, all_pairs=True)
        )
    assert {pair.verdict for pair in result.pairs} == {"inconclusive"}
    assert result.omnibus is not None
    assert result.omnibus.p == 1.0


@pytest.mark.parametrize("bad", [{"margin": 0.0}, {"margin": float("nan")}, {"alpha": 0.0}, {"test": "magic"}])
def test_invalid_options_are_rejected(bad: dict[str, float]) -> None:
    with pytest.raises(InputError):
        CompareOptions(**bad)  # type: ignore[arg-type]


def test_many_rows_are_averaged_in_little_memory() -> None:
    """A tenth of the rows of `make soak`, to check memory."""
    rng = np.random.default_rng(0)
    questions, arms, samples = 10_000, 5, 2
    count = questions * arms * samples
    table = pd.DataFrame(
        {
            "question": np.repeat(np.arange(questions), arms * samples),
            "arm": np.tile(np.repeat(list("abcde"), samples), questions),
            "quality": rng.normal(0.5, 0.1, count),
        }
    )
    result = compare_scores(table, "quality")
    assert {pair.test for pair in result.pairs} == {"t"}
    assert [arm.questions for arm in result.arms] == [questions] * arms
