"""Heavy tails: detect a mean difference that few questions carry, and bound its p-value by the range of scores."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Largest skewness of a mean at which sign flips and t tests hold their level, by simulation (docs/comparisons.md).
# Below 20 questions the skewness of symmetric differences scatters more.
SMALL = 0.15
SCATTER = 3.0


def has_heavy_tail(values: NDArray[np.float64], clusters: NDArray[np.intp] | None = None) -> Any:
    """Return whether the differences have a heavy tail on the opposite side of zero from their mean, per question and,
    if given, per cluster."""
    levels = ((_units(values, groups), _adverse_skewness(values, groups)) for groups in _levels(clusters))
    return np.any([skewness > max(SMALL, SCATTER / units) for units, skewness in levels], axis=0)


def count_for_tail(values: NDArray[np.float64], clusters: NDArray[np.intp] | None = None) -> int:
    """Return how many questions make the skewness of their mean small, if the distribution stays as observed."""
    skewness: float = max(_adverse_skewness(values, groups) for groups in _levels(clusters))
    return math.ceil(values.size * skewness * skewness / SMALL**2)


def effective_count(count: int, clusters: NDArray[np.intp] | None) -> float:
    """Return the effective sample size: `count` without clusters, else between one and the number of clusters."""
    return count if clusters is None else count**2 / float(np.sum(np.bincount(clusters) ** 2.0))


def hoeffding_p(mean: Any, reach: Any, count: float, *, sides: int = 2) -> Any:
    """Return the p-value of no mean difference for any distribution between `-reach` and `reach` (Hoeffding 1963)."""
    return np.minimum(1.0, sides * np.exp(-count * (mean / np.where(reach > 0, reach, 1.0)) ** 2 / 2))


def hoeffding_distance(reach: float, count: float, confidence: float) -> float:
    """Return the largest distance of such a mean from the true mean, with probability `confidence`."""
    return reach * math.sqrt(2 * math.log(2 / (1 - confidence)) / count)


def unobserved_p(mean: Any, count: float) -> Any:
    """Return the p-value of no mean difference when all `count` differences, between -1 and 1, equal `mean`.

    Score test of the share of unobserved questions that differ by 1 in the other direction.
    """
    return np.minimum(1.0, 2 * stats.norm.sf(np.sqrt(count * np.abs(mean))))


def _levels(clusters: NDArray[np.intp] | None) -> list[NDArray[np.intp] | None]:
    return [None] if clusters is None else [None, clusters]


def _units(values: NDArray[np.float64], groups: NDArray[np.intp] | None) -> int:
    return values.shape[-1] if groups is None else int(groups.max()) + 1


def _adverse_skewness(values: NDArray[np.float64], groups: NDArray[np.intp] | None) -> Any:
    """Return the skewness of the mean, positive if the longer tail is on the opposite side of zero."""
    means = values.mean(axis=-1, keepdims=True)
    deviations = values - means
    if groups is not None:
        deviations = deviations @ (groups[:, None] == np.arange(_units(values, groups)))
    largest = np.abs(deviations).max(axis=-1, keepdims=True)
    scaled = deviations / np.where(largest > 0, largest, 1.0)
    variance = np.mean(scaled**2, axis=-1)
    skewness = np.mean(scaled**3, axis=-1) / np.where(variance > 0, variance, 1.0) ** 1.5
    return -np.sign(means[..., 0]) * skewness / math.sqrt(deviations.shape[-1])
