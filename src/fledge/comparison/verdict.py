"""Verdicts from a score table: better, worse, equivalent or inconclusive for each pair of arms."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from fledge.comparison.findings import ArmSummary, Comparison, Pair, Verdict
from fledge.comparison.guards import Guard, check_guard, read_guard
from fledge.comparison.intervals import ANY_NUMBER, Bounds, mean_interval
from fledge.comparison.options import ALPHA, POWER, CompareOptions
from fledge.comparison.power import (
    questions_for_equivalence,
    questions_for_mcnemar,
    questions_needed,
)
from fledge.comparison.statistics import (
    PairedSample,
    PairedTest,
    adjust,
    equivalence_p,
    omnibus,
    one_sided_p,
    paired_test,
)
from fledge.comparison.table import ScoreTable, by_question, describe_missing, describe_repeated, metrics
from fledge.comparison.tails import count_for_tail
from fledge.comparison.topics import explain_few_topics, fewest_signs
from fledge.core.errors import InputError

Direction = Callable[[str], bool | None]
Range = Callable[[str], Bounds]


class _TestedPair(NamedTuple):
    """A pair with its unadjusted test result."""

    a: str
    b: str
    sample: PairedSample
    result: PairedTest

    @property
    def clusters(self) -> NDArray[np.intp] | None:
        """The clusters, if the test used them."""
        return self.sample.clusters if self.result.test.startswith(("cluster", "hoeffding")) else None

    @property
    def units(self) -> int:
        """Number of independent units in the test: questions, or topics if they are clusters."""
        return len(self.sample.a) if self.clusters is None else int(self.clusters.max()) + 1


def compare_scores(
    table: pd.DataFrame,
    metric: str,
    options: CompareOptions | None = None,
    *,
    higher_is_better: bool | None = True,
    direction_of: Direction = lambda _: None,
    range_of: Range = lambda _: ANY_NUMBER,
    planned: dict[str, Any] | None = None,
) -> Comparison:
    """Compare arms of a long table with columns `question`, `arm`, `metric`, and optionally `sample` and `topic`.

    If the metric has no better direction (`higher_is_better` None) there is no winner, and `better` means higher.
    `direction_of` returns the direction of a guarded metric or None, `range_of` a metric's lowest and highest possible
    score. The result is deterministic. Raises `InputError` for a table that cannot be compared.
    """
    options = options or CompareOptions()
    scores = by_question(table, metric, range_of(metric))
    arms = baseline_first(scores.arms, options.baseline)
    baseline = arms[0]
    if options.all_pairs:
        names = [(a, b) for index, b in enumerate(arms) for a in arms[index + 1 :]]
    else:
        names = [(arm, baseline) for arm in arms if arm != baseline]
    tested = [_test_pair(scores, a, b, options) for a, b in names]
    guards = [
        (guard, by_question(table, guard.metric, range_of(guard.metric)))
        for guard in _read_guards(table, options, direction_of)
    ]
    alpha = options.alpha or ALPHA
    pairs = _judge_pairs(metric, tested, options, alpha, higher_is_better, guards)
    summaries = tuple(_summarize_arm(scores, arm, options) for arm in arms)
    sign = -1 if higher_is_better is False else 1
    won = {
        pair.a: pair.difference * sign
        for pair in pairs
        if pair.b == baseline and pair.verdict == "better" and pair.guarded
    }
    departures = tuple(_find_departures(table, metric, baseline, options, planned or {}))
    return Comparison(
        metric=metric,
        higher_is_better=higher_is_better,
        baseline=baseline,
        alpha=alpha,
        margin=options.margin,
        correction="holm",
        arms=summaries,
        pairs=tuple(pairs),
        omnibus=omnibus(scores.whole(), passes=scores.passes),
        winner=None if higher_is_better is None else max(won, key=lambda name: won[name], default=None),
        leader=_find_leader(scores, arms, sign),
        planned=planned,
        departures=departures,
        exploratory=bool(departures),
        notes=tuple(_describe_notes(table, scores, tested, options)),
    )


def baseline_first(arms: Sequence[str], baseline: str | None) -> list[str]:
    """Return the arms with the baseline first. Raises `InputError` if the baseline is not an arm."""
    first = baseline or arms[0]
    if first not in arms:
        raise InputError(f"no arm {first!r}", hint=f"arms: {', '.join(arms)}")
    return sorted(arms, key=lambda arm: arm != first)


def _find_departures(
    table: pd.DataFrame, metric: str, baseline: str, options: CompareOptions, planned: dict[str, Any]
) -> Iterator[str]:
    """Yield the deviations from the pre-registration that could change the winner."""
    if not planned:
        return
    if planned.get("metric") != metric:
        yield f"{planned.get('metric') or 'no metric'} was pre-registered, not {metric}"
    if planned.get("arms", [baseline])[0] != baseline:
        yield f"the baseline is {baseline}, and {planned['arms'][0]} was pre-registered"
    alpha = planned.get("alpha") or ALPHA
    if (options.alpha or alpha) > alpha:
        yield f"alpha is {options.alpha:g}, and {alpha:g} was pre-registered"
    if options.test != "auto":
        yield f"the test {options.test} was chosen afterwards"
    if not options.by_topic and "topic" in table and table["topic"].nunique() > 1:
        yield "questions of one topic were treated as independent"


def _find_leader(scores: ScoreTable, arms: Sequence[str], sign: int) -> str:
    """Return the arm with the best mean over the questions that all arms answered, else over its own."""
    whole = scores.whole()
    shared = dict(zip(scores.arms, whole.mean(axis=0), strict=True)) if len(whole) else {}
    means = {arm: float(shared.get(arm, scores.of(arm).mean())) for arm in arms}
    return max(means, key=lambda name: means[name] * sign)


def _read_guards(table: pd.DataFrame, options: CompareOptions, direction_of: Direction) -> list[Guard]:
    guards = [read_guard(text) for text in options.guards]
    for guard in guards:
        if guard.metric not in table:
            hint = f"one of: {', '.join(metrics(table))}"
            raise InputError(f"guard {guard.text!r}: no metric {guard.metric!r}", hint=hint)
        way = direction_of(guard.metric)
        if way is not None and way == guard.most:
            raise InputError(
                f"guard {guard.text!r}: {guard.metric} is better when {'higher' if way else 'lower'}",
                hint=f"limit the loss: {guard.metric}{'>=-' if way else '<=+'}{abs(guard.change):g}",
            )
    return guards


def _test_pair(scores: ScoreTable, a: str, b: str, options: CompareOptions) -> _TestedPair:
    sample = scores.pair(a, b, by_topic=options.by_topic)
    try:
        return _TestedPair(a, b, sample, paired_test(sample, options.test, seed=options.seed))
    except ValueError as error:
        raise InputError(f"{scores.metric}: {error}", hint="--test auto") from None


def _judge_pairs(
    metric: str,
    tested: Sequence[_TestedPair],
    options: CompareOptions,
    alpha: float,
    way: bool | None,
    guards: Sequence[tuple[Guard, ScoreTable]],
) -> list[Pair]:
    sign = -1 if way is False else 1
    adjusted = adjust([item.result.p for item in tested])
    none: list[float | None] = [None] * len(tested)
    equal, kept = none, none
    if (margin := options.margin) is not None:
        equal = [*adjust([equivalence_p(item.sample, margin) for item in tested])]
        side: Literal["less", "greater"] = "less" if sign < 0 else "greater"
        kept = [*adjust([one_sided_p(item.sample, -sign * margin, side) for item in tested])]
    pairs = []
    for item, p_adjusted, equal_p, kept_p in zip(tested, adjusted, equal, kept, strict=True):
        result = item.result
        gains = item.sample.differences * sign
        verdict = _decide(result.difference * sign, p_adjusted < alpha, equal_p is not None and equal_p < alpha)
        undecided = verdict == "inconclusive"
        pairs.append(
            Pair(
                a=item.a,
                b=item.b,
                metric=metric,
                questions=len(gains),
                difference=result.difference,
                ci=(result.low, result.high),
                p=result.p,
                p_adjusted=p_adjusted,
                test=result.test,
                statistic=result.statistic,
                verdict=verdict,
                needed_questions=_further_questions(item, options, alpha / len(tested)) if undecided else None,
                reason=(
                    _explain_inconclusive(item, alpha / len(tested)) or _explain_correction(item, alpha, len(tested))
                )
                if undecided
                else None,
                equivalence_p=equal_p,
                non_inferiority_p=kept_p,
                wins=int(np.sum(gains > 0)),
                ties=int(np.sum(gains == 0)),
                losses=int(np.sum(gains < 0)),
                guards=tuple(
                    check_guard(guard, of.pair(item.a, item.b, by_topic=options.by_topic), alpha)
                    for guard, of in guards
                ),
            )
        )
    return pairs


def _decide(gain: float, different: bool, equivalent: bool) -> Verdict:
    if different and gain != 0:
        return "better" if gain > 0 else "worse"
    return "equivalent" if equivalent else "inconclusive"


def _explain_inconclusive(item: _TestedPair, alpha: float) -> str | None:
    """Return why the pair's data cannot support a verdict, or None."""
    if item.units > 1 and not item.sample.differences.any():
        return "both have the same score on every question"
    if item.clusters is not None and (reason := explain_few_topics(item.units, alpha)):
        return reason
    if item.result.test == "hoeffding":
        unit = "questions" if item.clusters is None else "topics"
        return f"the differences are too skewed for {item.units:,} {unit}: a few large ones carry the mean"
    return None


def _explain_correction(item: _TestedPair, alpha: float, pairs: int) -> str | None:
    """Explain an inconclusive pair whose unadjusted interval excludes zero."""
    if pairs > 1 and item.result.p < alpha:
        return f"p = {item.result.p:.2g} is not significant after correction for {pairs} pairs (Holm)"
    return None


def _further_questions(item: _TestedPair, options: CompareOptions, alpha: float) -> int | None:
    """Return how many more questions give 80 % power at the observed spread, or None if no number does.

    Power to detect the observed difference or, with a margin, to show equivalence, whichever needs fewer. With clusters
    the questions must be of new topics; None if there are too few topics for any verdict.
    """
    result, units, count = item.result, item.units, len(item.sample.a)
    if count < 2 or (item.clusters is not None and explain_few_topics(units, alpha)):
        return None
    size = count / units
    spread = result.spread / math.sqrt(size)
    if result.test.startswith("mcnemar"):
        disagreement = sum(item.sample.discordant) / count
        total = questions_for_mcnemar(result.difference, disagreement, power=POWER, alpha=alpha)
    else:
        total = questions_needed(result.difference, spread, power=POWER, alpha=alpha)
    totals = [total and max(total, _minimum_questions(item, alpha))]
    if options.margin is not None:
        total = questions_for_equivalence(options.margin, spread, power=POWER, alpha=alpha)
        if total is not None and (item.sample.binary or not result.spread):  # Tango's limit if all agree
            total = max(total, math.ceil(stats.norm.isf(alpha) ** 2 * (1 / options.margin - 1) / size))
        totals.append(total)
    further = [math.ceil(total * size) - count for total in totals if total is not None]
    return min((more for more in further if more > 0), default=None)  # the present number was not enough


def _minimum_questions(item: _TestedPair, alpha: float) -> int:
    """Return the minimum number of questions, or topics, at which the test can detect a difference."""
    result = item.result
    fewest = fewest_signs(alpha) if result.test.endswith(("permutation", "wilcoxon", "hoeffding")) else 1
    if result.test == "hoeffding":
        size = len(item.sample.a) / item.units
        return max(fewest, math.ceil(count_for_tail(item.sample.differences, item.clusters) / size))
    if result.difference and not result.spread and item.sample.of_shares:  # Tango's limit for unobserved outcomes
        return max(fewest, math.ceil(stats.norm.isf(alpha / 2) ** 2 / abs(result.difference)))
    return fewest


def _describe_notes(
    table: pd.DataFrame, scores: ScoreTable, tested: Sequence[_TestedPair], options: CompareOptions
) -> list[str]:
    notes = [*describe_missing(scores), *describe_repeated(table)]
    clustered = [item.sample.clusters for item in tested if item.sample.clusters is not None]
    if clustered and options.test == "auto":
        count = len(np.unique(clustered[0]))
        notes.append(f"questions of one topic are treated as related: {count} topics; more topics narrow the interval")
        if fewest_signs(options.alpha or ALPHA) <= count < 10:
            notes.append("so few topics give wide intervals; --independent treats all questions as independent")
    elif options.by_topic and "topic" in table and table["topic"].nunique() == 1 and table["topic"].iloc[0]:
        notes.append("all questions have the same topic and are treated as independent")
    elif clustered:
        notes.append(f"the test {options.test} treats all questions as independent, even those of one topic")
    return notes


def _summarize_arm(scores: ScoreTable, arm: str, options: CompareOptions) -> ArmSummary:
    values = scores.of(arm)
    answered = np.isfinite(scores.values[:, scores.arms.index(arm)])
    clusters = scores.clusters(answered) if options.by_topic else None
    interval = mean_interval(values, passes=scores.passes, clusters=clusters, bounds=scores.bounds, seed=options.seed)
    return ArmSummary(arm, float(values.mean()), interval, len(values))
