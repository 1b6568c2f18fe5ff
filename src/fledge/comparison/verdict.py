"""Verdicts: for each pair of arms better, worse, equivalent or inconclusive, from a table of scores."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from fledge.comparison.statistics import adjust, mean_interval, paired_difference, questions_needed
from fledge.core.errors import InputError

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]
ALPHA = 0.05


@dataclass(frozen=True)
class ArmSummary:
    """Mean of the metric over questions and its 95 % interval."""

    name: str
    mean: float
    ci: tuple[float, float]
    questions: int


@dataclass(frozen=True)
class Pair:
    """`a` against the baseline `b`. `ci` is the 95 % interval of the difference, not adjusted for the number of pairs;
    the verdict follows `p_adjusted`. `needed_questions` are further ones for 80 % power at the difference seen."""

    a: str
    b: str
    questions: int
    difference: float
    ci: tuple[float, float]
    p: float
    p_adjusted: float
    test: str
    statistic: float
    verdict: Verdict
    needed_questions: int | None

    def in_words(self, metric: str) -> str:
        """One sentence for people."""
        low, high = self.ci
        interval = f"95 % interval {low:+.3f} to {high:+.3f}" if math.isfinite(low) else "no interval"
        plural = "" if self.questions == 1 else "s"
        seen = f"{self.difference:+.3f} {metric} ({interval}, {self.questions} question{plural})"
        if self.verdict == "inconclusive":
            more = f"ask about {self.needed_questions:,} more" if self.needed_questions else "ask more questions"
            if self.difference == low == high == 0:
                more = "they score alike on every question"
            return f"{self.a} against {self.b}: inconclusive, {seen}; {more}"
        return f"{self.a} is {self.verdict} {'to' if self.verdict == 'equivalent' else 'than'} {self.b}: {seen}"


@dataclass(frozen=True)
class Comparison:
    """All pairs on one metric. `winner` is better than the baseline after correction, or None; `leader` has the best
    mean, which alone proves nothing."""

    metric: str
    baseline: str
    arms: tuple[ArmSummary, ...]
    pairs: tuple[Pair, ...]
    winner: str | None
    leader: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_scores(
    table: pd.DataFrame,
    metric: str,
    *,
    baseline: str | None = None,
    all_pairs: bool = False,
    margin: float | None = None,
    higher_is_better: bool | None = True,
    seed: int = 0,
) -> Comparison:
    """Compare arms of a long table with columns `question`, `arm`, `metric` (samples are averaged in a question).

    Where neither way is better (`higher_is_better` None) nothing can win; `better` then only says higher.

    Raises `InputError` for an unknown metric or arm, fewer than two arms, or pairs without a common question.
    """
    wide = _wide(table, metric)
    arms = list(wide.columns)
    baseline = baseline or arms[0]
    if baseline not in arms:
        raise InputError(f"no arm {baseline!r}", hint=f"arms: {', '.join(arms)}")
    arms.sort(key=lambda arm: arm != baseline)  # first; the others keep their order
    if all_pairs:
        names = [(a, b) for index, b in enumerate(arms) for a in arms[index + 1 :]]
    else:
        names = [(arm, baseline) for arm in arms if arm != baseline]
    tests = [(a, b, _differences(wide, a, b)) for a, b in names]
    results = [paired_difference(values, seed=seed) for _, _, values in tests]
    adjusted = adjust([result.p for result in results])
    sign = -1 if higher_is_better is False else 1
    pairs = []
    for (a, b, values), result, p_adjusted in zip(tests, results, adjusted, strict=True):
        verdict = _verdict(result.difference * sign, p_adjusted, _within(values, margin))
        needed = None
        if verdict == "inconclusive" and len(values) > 1:
            total = questions_needed(result.difference, float(np.std(values, ddof=1)))
            needed = max(1, total - len(values)) if total else None
        numbers = (result.difference, (result.low, result.high), result.p, p_adjusted, result.test, result.statistic)
        pairs.append(Pair(a, b, len(values), *numbers, verdict, needed))
    summaries = tuple(_summary(wide, arm) for arm in arms)
    best = max(summaries, key=lambda arm: arm.mean * sign).name
    better = [pair.a for pair in pairs if pair.verdict == "better" and pair.b == baseline]
    means = {arm.name: arm.mean for arm in summaries}
    if higher_is_better is None:
        better = []
    winner = max(better, key=lambda name: means[name] * sign, default=None)
    return Comparison(metric, baseline, summaries, tuple(pairs), winner, best)


def read_scores(path: str) -> pd.DataFrame:
    """A long table from a CSV file with at least the columns `question`, `arm` and one metric."""
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file", hint="check the path given to --scores") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: {error}", hint="columns: question, arm, and one for each metric") from None
    missing = [name for name in ("question", "arm") if name not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}", hint="columns: question, arm, and metrics")
    return table


def pick_metric(table: pd.DataFrame, metric: str | None) -> str:
    """The metric named, or `token_f1` where the table has references. Raises `InputError` if there is none."""
    numeric = [str(name) for name in table.select_dtypes("number").columns if name != "sample"]
    if metric is None and "token_f1" in numeric and table["token_f1"].notna().any():
        return "token_f1"
    if metric in numeric:
        return str(metric)
    what = "no metric was named, and there are no references" if metric is None else f"no metric {metric!r}"
    raise InputError(what, hint=f"--metric one of: {', '.join(numeric)}")


def _wide(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    order: Sequence[str] = list(dict.fromkeys(table["arm"].astype(str)))
    if len(order) < 2:
        raise InputError("a comparison needs at least two arms", hint="fledge experiment --prompts a,b")
    finite = table[np.isfinite(table[metric].astype(float))]
    wide = finite.assign(arm=finite["arm"].astype(str)).pivot_table(
        index="question", columns="arm", values=metric, aggfunc="mean"
    )
    empty = [arm for arm in order if arm not in wide]
    if empty:
        raise InputError(f"arm {empty[0]!r} has no value of {metric}", hint="choose another --metric")
    return wide[order]


def _differences(wide: pd.DataFrame, a: str, b: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = (wide[a] - wide[b]).dropna().to_numpy(dtype=np.float64)
    if not len(values):
        raise InputError(f"arms {a!r} and {b!r} have no question in common")
    return values


def _within(values: np.ndarray[Any, np.dtype[np.float64]], margin: float | None) -> bool:
    """Two one-sided tests at 5 % each: the 90 % interval lies within the margin."""
    if margin is None or len(values) < 2:
        return False
    test = paired_difference(values, confidence=1 - 2 * ALPHA)
    return -margin < test.low and test.high < margin


def _verdict(gain: float, p_adjusted: float, equivalent: bool) -> Verdict:
    if p_adjusted < ALPHA and gain != 0:
        return "better" if gain > 0 else "worse"
    return "equivalent" if equivalent else "inconclusive"


def _summary(wide: pd.DataFrame, arm: str) -> ArmSummary:
    values = wide[arm].dropna().to_numpy(dtype=np.float64)
    return ArmSummary(arm, float(values.mean()), mean_interval(values), len(values))
