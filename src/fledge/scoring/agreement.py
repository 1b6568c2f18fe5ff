"""How far a judge agrees with people."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa


class Agreement(NamedTuple):
    """Cohen's kappa with its 95 % interval (None where one side knows one label only), and the share of equal labels.

    `table` has a row for each label of the people and a column for each of the judge.
    """

    kappa: float | None
    ci: tuple[float, float] | None
    agreed: float
    labels: tuple[float, ...]
    table: tuple[tuple[int, ...], ...]


def agreement(people: Sequence[float], judge: Sequence[float]) -> Agreement:
    """Compare labels of the same answers. With more than two labels, near misses count by half (weights by distance,
    Cohen 1968); else Cohen 1960."""
    labels = sorted({*people, *judge})
    places = {label: place for place, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), dtype=int)
    for mine, theirs in zip(people, judge, strict=True):
        table[places[mine], places[theirs]] += 1
    agreed = float(np.trace(table) / table.sum())
    rows = tuple(tuple(int(count) for count in row) for row in table)
    if len(set(people)) < 2 or len(set(judge)) < 2:
        return Agreement(None, None, agreed, tuple(labels), rows)
    result = cohens_kappa(table, weights=np.asarray(labels) if len(labels) > 2 else None, return_results=True)
    low, high = float(result.kappa_low), float(result.kappa_upp)
    interval = (max(low, -1.0), min(high, 1.0)) if math.isfinite(low) and math.isfinite(high) else None
    return Agreement(float(result.kappa), interval, agreed, tuple(labels), rows)
