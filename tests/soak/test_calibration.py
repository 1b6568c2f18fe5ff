"""How often verdicts are wrong, by simulation: reported in docs/calibration.md."""

import pytest

from fledge.comparison.power import plan
from tests.comparison.simulation import coverage, share, simulate

pytestmark = pytest.mark.soak
TABLES = 2_000


@pytest.mark.parametrize(("kind", "questions"), [("normal", 40), ("f1", 60), ("pass", 60), ("topics", 120)])
def test_no_difference_between_five_arms(kind: str, questions: int) -> None:
    outcomes = simulate(TABLES, kind, questions, [0.0] * 5)
    wrong, held = share(outcomes, "better", "worse"), coverage(outcomes)
    print(f"\n{kind}: 5 arms alike, {questions} questions: {wrong:.1%} with a difference, intervals hold {held:.1%}")
    assert wrong <= 0.06
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize(
    ("kind", "effect", "questions"),
    [
        ("normal", 0.5, plan(0.5).questions),
        ("normal", 0.2, plan(0.2).questions),
        ("pass", 0.2, plan(0.2, disagreement=0.5 * 0.7 + 0.5 * 0.3).questions),
    ],
)
def test_power_at_the_planned_number(kind: str, effect: float, questions: int) -> None:
    outcomes = simulate(TABLES, kind, questions, [0.0, effect])
    found, held = share(outcomes, "better"), coverage(outcomes)
    print(f"\n{kind}: effect {effect:g}, {questions} questions: found {found:.1%}, intervals hold {held:.1%}")
    assert 0.77 <= found <= 0.83
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize(
    ("kind", "margin", "questions"),
    [("normal", 0.3, 60), ("f1", 0.1, 300), ("pass", 0.1, 300), ("topics", 0.4, 120)],
)
def test_arms_at_the_margin_are_not_equivalent(kind: str, margin: float, questions: int) -> None:
    wrong = share(simulate(TABLES, kind, questions, [0.0, margin], margin), "equivalent")
    four = share(simulate(TABLES, kind, questions, [0.0, *[margin] * 3], margin), "equivalent")
    print(f"\n{kind}: at the margin of {margin:g}, {questions} questions: equivalent {wrong:.1%}; of 4 arms {four:.1%}")
    assert wrong <= 0.06
    assert four <= 0.06


@pytest.mark.parametrize("kind", ["normal", "pass"])
def test_equivalence_is_found_at_the_planned_number(kind: str) -> None:
    margin, sd = (0.3, 1.0) if kind == "normal" else (0.1, 0.5**0.5)
    questions = plan(margin, sd=sd, equivalence=True).questions
    found = share(simulate(TABLES, kind, questions, [0.0, 0.0], margin), "equivalent")
    print(f"\n{kind}: alike, margin {margin:g}, {questions} questions: equivalent {found:.1%}")
    assert found >= 0.77
