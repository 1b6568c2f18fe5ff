"""Estimates for one arm: the mean of each metric over questions, with a 95 % interval."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from fledge.comparison.intervals import ANY_NUMBER, CONFIDENCE, Bounds, Numbers, clip_interval, mean_interval
from fledge.comparison.table import metrics, score_questions


class Estimate(NamedTuple):
    """A metric's mean over questions and its 95 % interval; for a single question the interval is `bounds`, the lowest
    and highest possible score."""

    value: float
    ci: tuple[float, float]
    questions: int
    bounds: Bounds = ANY_NUMBER


def estimate(
    table: pd.DataFrame,
    *,
    range_of: Callable[[str], Bounds] = lambda _: ANY_NUMBER,
    by_topic: bool = True,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return an estimate of each metric in a long table with one arm; columns as for `compare_scores`. `range_of`
    returns a metric's lowest and highest possible score.

    Metrics without a value are left out. `latency_s` also gives `latency_p95_s`: the 95th percentile of all answers,
    with an interval from order statistics.
    """
    found: dict[str, Estimate] = {}
    for name in metrics(table):
        scores = score_questions(table, name, range_of(name))
        if scores is None:
            continue
        values = scores.of(scores.arms[0])
        clusters = scores.clusters(np.isfinite(scores.values[:, 0])) if by_topic else None
        interval = mean_interval(values, passes=scores.passes, clusters=clusters, bounds=scores.bounds, seed=seed)
        found[name] = Estimate(float(values.mean()), interval, len(values), scores.bounds)
    if "latency_s" in found:
        seconds = table["latency_s"].dropna().to_numpy(dtype=float)
        found["latency_p95_s"] = _estimate_p95(seconds, range_of("latency_s"))
    return found


def _estimate_p95(values: Numbers, bounds: Bounds) -> Estimate:
    interval: Any = stats.quantile_test(values, q=0.0, p=0.95).confidence_interval(CONFIDENCE)
    low = -math.inf if math.isnan(interval.low) else float(interval.low)
    high = math.inf if math.isnan(interval.high) else float(interval.high)
    return Estimate(float(np.quantile(values, 0.95)), clip_interval((low, high), bounds), len(values), bounds)
