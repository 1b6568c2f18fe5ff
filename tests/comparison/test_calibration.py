"""Error rates of verdicts on 500 simulated tables; `make soak` draws more, of more kinds."""

import pytest

from fledge.comparison.power import plan
from tests.comparison.simulation import coverage, share, simulate

pytestmark = pytest.mark.slow
TABLES = 500


def test_family_wise_error_rate_of_five_equal_arms() -> None:
    outcomes = simulate(TABLES, "normal", 40, [0.0] * 5)
    assert share(outcomes, "better", "worse") <= 0.08
    assert 0.92 <= coverage(outcomes) <= 0.98


def test_planned_number_of_questions_reaches_the_power() -> None:
    outcomes = simulate(TABLES, "normal", plan(0.5).questions, [0.0, 0.5])
    assert 0.74 <= share(outcomes, "better") <= 0.86
    assert share(outcomes, "worse") == 0


def test_error_rate_of_equivalence_at_the_margin() -> None:
    assert share(simulate(TABLES, "normal", 60, [0.0, 0.3], 0.3), "equivalent") <= 0.08
