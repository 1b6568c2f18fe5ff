"""What one arm's answers say of each metric: the mean over questions, with an interval."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from fledge.comparison.statistics import CONFIDENCE, Numbers, mean_interval
from fledge.comparison.table import metrics, score_questions


class Estimate(NamedTuple):
    """A metric's mean over questions and its 95 % interval, infinite where one question is all there is."""

    value: float
    ci: tuple[float, float]
    questions: int


def estimate(table: pd.DataFrame, *, by_topic: bool = True, seed: int = 0) -> dict[str, Estimate]:
    """An estimate of each metric of a long table with one arm, columns as for `compare_scores`.

    Metrics without a value are left out. `latency_s` is there a second time as `latency_p95_s`, the 95th percentile
    of all answers with the interval of its order statistics.
    """
    found: dict[str, Estimate] = {}
    for name in metrics(table):
        scores = score_questions(table, name)
        if scores is None:
            continue
        values = scores.of(scores.arms[0])
        clusters = scores.clusters(np.isfinite(scores.values[:, 0])) if by_topic else None
        interval = mean_interval(values, passes=scores.passes, clusters=clusters, seed=seed)
        found[name] = Estimate(float(values.mean()), interval, len(values))
    if "latency_s" in found:
        found["latency_p95_s"] = _percentile(table["latency_s"].dropna().to_numpy(dtype=float))
    return found


def _percentile(values: Numbers) -> Estimate:
    interval: Any = stats.quantile_test(values, q=0.0, p=0.95).confidence_interval(CONFIDENCE)
    low = -math.inf if math.isnan(interval.low) else float(interval.low)
    high = math.inf if math.isnan(interval.high) else float(interval.high)
    return Estimate(float(np.quantile(values, 0.95)), (low, high), len(values))
