"""Agreement of a judge with human labels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint


class Agreement(NamedTuple):
    """Cohen's kappa with its 95 % interval (None if either side uses one label only), and the share of equal labels.

    `table` has a row for each human label and a column for each label of the judge.
    """

    kappa: float | None
    ci: tuple[float, float] | None
    agreed: float
    labels: tuple[float, ...]
    table: tuple[tuple[int, ...], ...]


def agreement(people: Sequence[float], judge: Sequence[float]) -> Agreement:
    """Compare labels of the same answers. Raises `ValueError` if there are none.

    Two labels: Cohen 1960. More: weighted by the distance of labels (Cohen 1968; Cicchetti and Allison 1971), so that
    4 for 5 is a smaller disagreement than 1 for 5. The interval is the union of the asymptotic one (Fleiss, Cohen and
    Everitt 1969), which has zero width at full agreement, and Wilson's for the share that agrees.
    """
    if not people:
        raise ValueError("no labels")
    labels = sorted({*people, *judge})
    places = {label: place for place, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), dtype=int)
    for mine, theirs in zip(people, judge, strict=True):
        table[places[mine], places[theirs]] += 1
    agreed = float(np.trace(table) / table.sum())
    rows = tuple(tuple(int(count) for count in row) for row in table)
    if len(set(people)) < 2 or len(set(judge)) < 2:
        return Agreement(None, None, agreed, tuple(labels), rows)
    with np.errstate(invalid="ignore", divide="ignore"):  # the root of a variance of -1e-18, or of 0
        result = cohens_kappa(table, weights=np.asarray(labels) if len(labels) > 2 else None, return_results=True)
    kappa = float(result.kappa)
    asymptotic = [limit for limit in (result.kappa_low, result.kappa_upp) if np.isfinite(limit)]
    bounds = [*map(float, asymptotic), *_wilson_limits(table, np.asarray(labels, dtype=float))]
    return Agreement(kappa, (max(min(bounds), -1.0), min(max(bounds), 1.0)), agreed, tuple(labels), rows)


def _wilson_limits(table: NDArray[np.int_], labels: NDArray[np.float64]) -> list[float]:
    """Return limits of kappa from Wilson's limits of the (weighted) share that agrees, with chance agreement as known.

    Near misses have less variance than hits and full misses, which counts as a larger sample. One added full miss, or a
    hit if most are misses, keeps a few near misses from inflating it.
    """
    n = float(table.sum())
    hits = 1 - np.abs(labels[:, None] - labels) / (labels[-1] - labels[0])
    chance = float((hits * np.outer(table.sum(axis=1), table.sum(axis=0))).sum()) / n**2
    share, square = float((hits * table).sum()), float((hits**2 * table).sum())
    more = float(share < n / 2)
    mean = (share + more) / (n + 1)
    worth = n * mean * (1 - mean) / ((square + more) / (n + 1) - mean**2)
    limits = proportion_confint(share / n * worth, worth, method="wilson")
    return [(float(limit) - chance) / (1 - chance) for limit in limits]
