"""Exploratory differences on the metrics that were not pre-registered."""

from typing import NamedTuple

import pandas as pd

from fledge.comparison.findings import Comparison
from fledge.comparison.statistics import adjust, paired_test
from fledge.comparison.table import metrics, score_questions


class Finding(NamedTuple):
    """The difference between arm `a` and the baseline on another metric; `ties` counts questions with equal scores.

    `q` is the p-value after Benjamini-Hochberg correction over all findings: of those with q below 5 %, about 5 % are
    false.
    """

    metric: str
    a: str
    difference: float
    ci: tuple[float, float]
    questions: int
    ties: int
    p: float
    q: float


def explore(table: pd.DataFrame, comparison: Comparison) -> list[Finding]:
    """Return each arm's difference to the baseline on every metric except the compared one."""
    found: list[Finding] = []
    for metric in metrics(table):
        scores = score_questions(table, metric)
        if scores is None or metric == comparison.metric or not len(scores.of(comparison.baseline)):
            continue
        for arm in (arm.name for arm in comparison.arms if arm.name != comparison.baseline):
            if scores.share(arm, comparison.baseline):
                sample = scores.pair(arm, comparison.baseline)
                result = paired_test(sample)
                interval = (result.low, result.high)
                ties = int((sample.differences == 0).sum())
                figures = (result.difference, interval, len(sample.a), ties, result.p)
                found.append(Finding(metric, arm, *figures, q=result.p))
    return [
        finding._replace(q=q)
        for finding, q in zip(found, adjust([finding.p for finding in found], "fdr_bh"), strict=True)
    ]
