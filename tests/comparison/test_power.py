import numpy as np
import pytest
from scipy import stats

from fledge.comparison.power import (
    mcnemar_power,
    plan,
    questions_for_equivalence,
    questions_for_mcnemar,
    questions_needed,
)
from fledge.core.errors import InputError


def test_half_a_standard_deviation_needs_34_pairs() -> None:
    assert plan(0.5).questions == 34  # G*Power, and R's power.t.test(delta = 0.5, type = "paired"), say 33.4
    assert plan(-0.5).questions == 34
    assert plan(0.5, power=0.9).questions == 44  # R: 43.99
    assert plan(0.05, sd=0.1).questions == 34


def test_questions_needed_at_the_edges() -> None:
    assert questions_needed(0.0, 1.0) is None
    assert questions_needed(0.2, 0.0) == 3
    assert questions_needed(5.0, 1.0) == 3
    assert questions_needed(0.01, 1.0) == 78_491
    assert questions_needed(1e-6, 1.0) is None
    assert questions_needed(float("nan"), 1.0) is None


def test_more_arms_need_more_questions() -> None:
    found = plan(0.5, arms=5)
    assert found.questions > 34
    assert found.alpha == pytest.approx(0.0125)


def test_mcnemar_power_by_enumeration() -> None:
    """All tables of 30 questions, one by one."""
    n, effect, disagreement = 30, 0.2, 0.4
    only_a, only_b = (disagreement + effect) / 2, (disagreement - effect) / 2
    total = 0.0
    for x in range(n + 1):
        for y in range(n + 1 - x):
            if x + y and stats.binomtest(min(x, y), x + y).pvalue <= 0.05:
                total += stats.multinomial.pmf([x, y, n - x - y], n, [only_a, only_b, 1 - disagreement])
    assert mcnemar_power(n, effect, disagreement) == pytest.approx(total)


def test_questions_for_pass_or_fail_reach_the_power() -> None:
    count = questions_for_mcnemar(0.05, 0.2)
    assert count is not None
    assert mcnemar_power(count, 0.05, 0.2) >= 0.8
    assert mcnemar_power(count - 20, 0.05, 0.2) < 0.8
    assert plan(0.05, disagreement=0.2).questions == count
    assert plan(0.05, disagreement=0.2).test == "mcnemar"
    assert questions_for_mcnemar(0.001, 0.2) is not None  # more than a million, computed fast


def test_questions_for_equivalence_reach_the_power() -> None:
    count = questions_for_equivalence(0.05, 0.2)
    assert count is not None
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.2, (4000, count))
    half = stats.t.ppf(0.95, count - 1) * values.std(axis=1, ddof=1) / np.sqrt(count)
    share = float(np.mean(np.abs(values.mean(axis=1)) + half < 0.05))
    assert share == pytest.approx(0.8, abs=0.03)
    assert plan(0.05, sd=0.2, equivalence=True).questions == count


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"effect": 0.0}, "effect must be from"),
        ({"effect": float("nan")}, "effect must be from"),
        ({"effect": 0.1, "sd": -1.0}, "sd must be from"),
        ({"effect": 0.1, "power": 1.0}, "power must be from"),
        ({"effect": 0.1, "arms": 1}, "arms must be from"),
        ({"effect": 0.3, "disagreement": 0.2}, "cannot differ by 0.3"),
        ({"effect": 0.000001}, "no number of questions"),
    ],
)
def test_plan_rejects_numbers_out_of_range(numbers: dict[str, float], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        plan(**numbers)  # type: ignore[arg-type]
