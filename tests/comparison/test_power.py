import math

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


def test_plan_returns_its_inputs() -> None:
    found = plan(-0.05, disagreement=0.2, power=0.9, alpha=0.04, arms=3)
    assert tuple(found)[1:] == ("mcnemar", 0.05, pytest.approx(math.sqrt(0.2 - 0.05**2)), 0.9, 0.02, 3)
    assert plan(0.5) == (34, "t", 0.5, 1.0, 0.8, 0.05, 2)
    same = plan(0.05, disagreement=0.2, equivalence=True)  # identical arms that disagree on a fifth of the questions
    assert same == plan(0.05, sd=math.sqrt(0.2), equivalence=True)
    assert same.test == "two one-sided tests"


@pytest.mark.parametrize(("power", "arms"), [(0.8, 2), (0.9, 2), (0.8, 5)])
def test_questions_agree_with_the_normal_approximation(power: float, arms: int) -> None:
    """Connor (1987) for McNemar's test, Chow, Shao and Wang (2008) for equivalence."""
    beta, level = stats.norm.ppf(power), 0.05 / (arms - 1)
    mcnemar = (stats.norm.isf(level / 2) * math.sqrt(0.2) + beta * math.sqrt(0.2 - 0.1**2)) ** 2 / 0.1**2
    found = plan(0.1, disagreement=0.2, power=power, arms=arms)
    assert mcnemar < found.questions < 1.1 * mcnemar  # the exact test is conservative
    equivalence = (stats.norm.isf(level) + stats.norm.isf((1 - power) / 2)) ** 2 * (0.3 / 0.05) ** 2
    found = plan(0.05, sd=0.3, equivalence=True, power=power, arms=arms)
    assert found.questions == pytest.approx(equivalence, rel=0.01)


def test_questions_if_one_arm_passes_all_and_the_other_none() -> None:
    assert questions_for_mcnemar(1.0, 1.0) == 6  # 2 of 2**6 is 3 %
    assert questions_for_mcnemar(1.0, 1.0, alpha=0.05 / 4) == 8
    assert questions_for_mcnemar(1.0, 1.0, alpha=0.5) == 3  # two would be enough, but three are asked at least
    assert questions_for_mcnemar(-1.0, 1.0) == 6


def test_questions_for_impossible_shares() -> None:
    assert questions_for_mcnemar(0.0, 0.2) is None
    assert questions_for_mcnemar(0.3, 0.2) is None
    assert questions_for_mcnemar(0.1, 1.5) is None


def test_questions_for_equivalence_at_the_edges() -> None:
    assert questions_for_equivalence(0.0, 0.2) is None
    assert questions_for_equivalence(0.05, math.nan) is None
    assert questions_for_equivalence(0.05, 0.0) == 3


@pytest.mark.parametrize(
    ("n", "effect", "disagreement", "alpha"),
    [(30, 0.2, 0.4, 0.05), (12, 0.5, 0.6, 1 / 16), (12, 0.5, 0.8, 0.3), (9, -0.4, 0.6, 0.01)],
)
def test_mcnemar_power_by_enumeration(n: int, effect: float, disagreement: float, alpha: float) -> None:
    """All tables of n questions, one by one; five wins of five have a p-value of 1/16."""
    only_a, only_b = (disagreement + effect) / 2, (disagreement - effect) / 2
    total = 0.0
    for x in range(n + 1):
        for y in range(n + 1 - x):
            if x + y and stats.binomtest(min(x, y), x + y).pvalue <= alpha:
                total += stats.multinomial.pmf([x, y, n - x - y], n, [only_a, only_b, 1 - disagreement])
    assert mcnemar_power(n, effect, disagreement, alpha) == pytest.approx(total)


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
        ({"effect": 0.1, "alpha": 0.6}, "alpha must be from"),
        ({"effect": 0.1, "disagreement": 1.5}, "disagreement must be from"),
        ({"effect": 0.3, "disagreement": 0.2}, "cannot differ by 0.3"),
        ({"effect": 0.000001}, "no number of questions"),
    ],
)
def test_plan_rejects_numbers_out_of_range(numbers: dict[str, float], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        plan(**numbers)  # type: ignore[arg-type]


def test_plan_reports_all_problems_and_a_valid_command() -> None:
    with pytest.raises(InputError) as caught:
        plan(0.0, sd=-1.0)
    assert [line.split()[0] for line in caught.value.message.splitlines()] == ["effect", "sd"]
    command = caught.value.hint.split()
    assert command[:3:2] == ["fledge", "--effect"]
    assert (
        plan(float(command[3]), sd=float(command[5])).questions == 285
    )  # (1.96 + 0.842)**2 * 6**2 + 1.96**2 / 2 is 284.5


def test_effect_that_is_too_small_gets_a_hint() -> None:
    with pytest.raises(InputError, match="up to 10,000,000 detects 1e-06") as caught:
        plan(0.000001)
    assert caught.value.hint == "use a larger --effect"


def test_arms_may_differ_on_all_questions_on_which_they_disagree() -> None:
    assert plan(0.2, disagreement=0.2).questions < plan(0.2, disagreement=0.3).questions
