"""Power analysis: how many questions a comparison needs."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.power import TTestPower

from fledge.comparison.options import ALPHA, POWER
from fledge.core.errors import InputError
from fledge.core.settings import out_of_range

MOST_QUESTIONS = 10_000_000


class PowerPlan(NamedTuple):
    """How many questions a test needs to detect `effect` with probability `power`, and the inputs used.

    `alpha` is the level of each pair: the overall alpha divided by the number of pairs.
    """

    questions: int
    test: str
    effect: float
    sd: float
    power: float
    alpha: float
    arms: int


def plan(
    effect: float,
    *,
    sd: float = 1.0,
    disagreement: float | None = None,
    equivalence: bool = False,
    power: float = POWER,
    alpha: float = ALPHA,
    arms: int = 2,
) -> PowerPlan:
    """Return how many questions to ask each of `arms` arms to detect a difference of `effect` to the baseline.

    `sd` is the standard deviation of a question's difference between two arms, in the unit of `effect`; 1 means that
    `effect` is in standard deviations. For pass/fail give `disagreement` instead, the share of questions that only one
    of two arms passes. With `equivalence`, `effect` is the margin within which identical arms are to be found
    equivalent. Raises `InputError` for numbers out of range.
    """
    effect = abs(effect)
    problems = _find_problems(effect, sd, disagreement, power, alpha, arms)
    if problems:
        raise InputError("\n".join(problems), hint="fledge plan --effect 0.05 --sd 0.3")
    level = alpha / (arms - 1)
    if disagreement is not None:
        sd = math.sqrt(disagreement - (0.0 if equivalence else effect**2))
    if equivalence:
        name, count = "two one-sided tests", questions_for_equivalence(effect, sd, power=power, alpha=level)
    elif disagreement is not None:
        name, count = "mcnemar", questions_for_mcnemar(effect, disagreement, power=power, alpha=level)
    else:
        name, count = "t", questions_needed(effect, sd, power=power, alpha=level)
    if count is None:
        raise InputError(
            f"no number of questions up to {MOST_QUESTIONS:,} detects {effect:g}", hint="use a larger --effect"
        )
    return PowerPlan(count, name, effect, sd, power, level, arms)


def questions_needed(effect: float, sd: float, *, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Return how many questions a paired t test needs to detect `effect` (in the unit of `sd`); None if no number is
    enough."""
    if not (effect and math.isfinite(effect) and math.isfinite(sd)):
        return None
    size = min(abs(effect) / sd, 100.0) if sd else 100.0
    test = TTestPower()
    return _find_smallest(lambda count: float(test.power(size, count, alpha)), power, start=3)


def questions_for_mcnemar(
    effect: float, disagreement: float, *, power: float = POWER, alpha: float = ALPHA
) -> int | None:
    """Return how many questions McNemar's exact test needs if only one of two arms passes a share `disagreement`."""
    if not effect or not abs(effect) <= disagreement <= 1:
        return None
    return _find_smallest(lambda count: mcnemar_power(count, effect, disagreement, alpha), power, start=3)


def mcnemar_power(count: int, effect: float, disagreement: float, alpha: float = ALPHA) -> float:
    """Return the power of McNemar's exact test with `count` questions to detect `effect`, a difference of shares."""
    likely = stats.binom(count, disagreement)
    discordant = np.arange(int(likely.ppf(1e-9)), int(likely.isf(1e-9)) + 1)
    favoured = (disagreement + abs(effect)) / (2 * disagreement)
    most = stats.binom.ppf(alpha / 2, discordant, 0.5)
    most = np.where(
        stats.binom.cdf(most, discordant, 0.5) > alpha / 2, most - 1, most
    )  # largest count of the rarer outcome
    found = stats.binom.cdf(most, discordant, favoured) + stats.binom.sf(discordant - most - 1, discordant, favoured)
    found = np.where(most < 0, 0.0, found)
    return float(np.sum(likely.pmf(discordant) * found))


def questions_for_equivalence(margin: float, sd: float, *, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Return how many questions two one-sided t tests need to find identical arms equivalent.

    The power treats the two tests as independent noncentral t tests.
    """
    if not margin or not math.isfinite(sd):
        return None
    size = abs(margin) / sd if sd else 100.0

    def chance(count: int) -> float:
        limit = stats.t.ppf(1 - alpha, count - 1)
        return float(max(0.0, 2 * stats.nct.sf(limit, count - 1, min(size * math.sqrt(count), 30.0)) - 1))

    return _find_smallest(chance, power, start=3)


def _find_smallest(chance: Callable[[int], float], power: float, *, start: int) -> int | None:
    """Find the smallest count that reaches `power`, assuming that power grows with it except for small ripples."""
    high = start
    while chance(high) < power:
        high *= 2
        if high > MOST_QUESTIONS:
            return None
    low = max(start, high // 2)
    while low < high:
        middle = (low + high) // 2
        if chance(middle) >= power:
            high = middle
        else:
            low = middle + 1
    return high


class _Numbers(NamedTuple):
    effect: float
    sd: float
    power: float
    alpha: float
    arms: int
    disagreement: float


def _find_problems(
    effect: float, sd: float, disagreement: float | None, power: float, alpha: float, arms: int
) -> list[str]:
    numbers = _Numbers(effect, sd, power, alpha, arms, 1.0 if disagreement is None else disagreement)
    found = out_of_range(
        numbers,
        ("effect", 1e-9, 1e9),
        ("sd", 1e-9, 1e9),
        ("power", 0.01, 0.999),
        ("alpha", 1e-6, 0.5),
        ("arms", 2, 1000),
        ("disagreement", 1e-6, 1),
    )
    if disagreement is not None and effect > disagreement:
        found.append(f"arms that disagree on {disagreement:g} of the questions cannot differ by {effect:g}")
    return found
