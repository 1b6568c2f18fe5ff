from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fledge.comparison.verdict import compare_scores, pick_metric, read_scores
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


def test_inconclusive_says_how_many_more_questions() -> None:
    result = compare_scores(_table(a=_noise(0.5, 1, 10), b=_noise(0.52, 2, 10)), "quality")
    pair = result.pairs[0]
    assert pair.verdict == "inconclusive"
    assert pair.needed_questions is not None
    assert pair.needed_questions > 0
    assert f"ask about {pair.needed_questions:,} more" in pair.in_words("quality")
    assert result.winner is None


def test_the_leader_is_not_the_winner() -> None:
    result = compare_scores(_table(a=_noise(0.5, 1, 10), b=_noise(0.52, 2, 10)), "quality")
    means = {arm.name: arm.mean for arm in result.arms}
    assert result.leader == max(means, key=lambda name: means[name])


def test_one_question_tells_nothing() -> None:
    result = compare_scores(_table(a=[0.1], b=[0.9]), "quality")
    assert (result.pairs[0].verdict, result.pairs[0].needed_questions, result.winner) == ("inconclusive", None, None)
    assert "no interval, 1 question); ask more questions" in result.pairs[0].in_words("quality")


def test_all_ties_are_said() -> None:
    pair = compare_scores(_table(a=[0.5] * 9, b=[0.5] * 9), "quality").pairs[0]
    assert (pair.verdict, pair.p, pair.needed_questions) == ("inconclusive", 1.0, None)
    assert "they score alike on every question" in pair.in_words("quality")


def test_lower_is_better_turns_the_verdict() -> None:
    table = _table(slow=_noise(2.0, 1), fast=_noise(1.0, 2))
    result = compare_scores(table, "quality", higher_is_better=False)
    assert result.pairs[0].verdict == "better"
    assert result.pairs[0].difference < 0
    assert result.winner == "fast"


def test_margin_makes_equivalence_possible() -> None:
    base = _noise(0.5, 1)
    table = _table(base=base, twin=[value + 0.001 * (-1) ** n for n, value in enumerate(base)])
    assert compare_scores(table, "quality").pairs[0].verdict == "inconclusive"
    assert compare_scores(table, "quality", margin=0.02).pairs[0].verdict == "equivalent"


def test_samples_are_averaged_within_a_question() -> None:
    rows = [
        {"question": q, "arm": arm, "sample": s, "quality": base + s}
        for q, arm, base in [("q1", "a", 0.0), ("q1", "b", 1.0), ("q2", "a", 0.0), ("q2", "b", 3.0)]
        for s in (0, 1)
    ]
    pair = compare_scores(pd.DataFrame(rows), "quality").pairs[0]
    assert (pair.questions, pair.difference) == (2, 2.0)


def test_pairs_are_made_of_common_questions_only() -> None:
    table = _table(a=[0.1, 0.2, 0.3], b=[0.2, 0.3, 0.4])
    table = table[~((table["arm"] == "b") & (table["question"] == "q1"))]
    assert compare_scores(table, "quality").pairs[0].questions == 2


def test_all_pairs_and_named_baseline() -> None:
    table = _table(a=_noise(0.5, 1), b=_noise(0.5, 2), c=_noise(0.5, 3))
    assert len(compare_scores(table, "quality", all_pairs=True).pairs) == 3
    assert {pair.b for pair in compare_scores(table, "quality", baseline="c").pairs} == {"c"}


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
def test_tables_that_cannot_be_compared(table: pd.DataFrame, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        compare_scores(table, "quality")


def test_arms_without_a_common_question() -> None:
    table = pd.DataFrame(
        {"question": ["q1", "q2"], "arm": ["a", "b"], "quality": [1.0, 2.0]},
    )
    with pytest.raises(InputError, match="no question in common"):
        compare_scores(table, "quality")


def test_unknown_baseline() -> None:
    with pytest.raises(InputError, match="no arm 'z'"):
        compare_scores(_table(a=[1.0], b=[2.0]), "quality", baseline="z")


def test_metric_is_token_f1_or_must_be_named() -> None:
    table = _table(a=[1.0], b=[2.0])
    assert pick_metric(table.assign(token_f1=0.5), None) == "token_f1"
    assert pick_metric(table, "quality") == "quality"
    with pytest.raises(InputError, match="no metric was named"):
        pick_metric(table, None)
    with pytest.raises(InputError, match="no metric 'speed'"):
        pick_metric(table, "speed")


def test_scores_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("question,arm,quality\n1,a,0.5\n1,b,0.7\n")
    assert len(read_scores(str(path))) == 2
    path.write_text("question,quality\n1,0.5\n")
    with pytest.raises(InputError, match="no column arm"):
        read_scores(str(path))
    with pytest.raises(InputError, match="there is no such file"):
        read_scores(str(tmp_path / "none.csv"))


def test_what_has_no_better_way_cannot_win() -> None:
    result = compare_scores(_table(short=_noise(1.0, 1), long=_noise(2.0, 2)), "quality", higher_is_better=None)
    assert result.pairs[0].verdict == "better"
    assert result.winner is None


def test_the_winner_is_the_same_with_all_pairs() -> None:
    table = _table(good=_noise(2.0, 1), middle=_noise(1.5, 2), base=_noise(1.0, 3))
    for all_pairs in (False, True):
        assert compare_scores(table, "quality", baseline="base", all_pairs=all_pairs).winner == "good"
