"""Tails: where few questions carry a mean difference, and what the range of scores still proves of it."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Skewness of a mean up to which sign flips and t tests are right about it, by simulation (docs/comparisons.md). With
# fewer than 20 questions that of symmetric differences scatters more.
SMALL = 0.15
SCATTER = 3.0


def heavy_tail(values: NDArray[np.float64], clusters: NDArray[np.intp] | None = None) -> Any:
    """Return whether the differences have a heavy tail on the opposite side of zero from their mean, per question and,
    if given, per cluster."""
    levels = ((_units(values, groups), _against(values, groups)) for groups in _levels(clusters))
    return np.any([skewness > max(SMALL, SCATTER / units) for units, skewness in levels], axis=0)


def count_for_tail(values: NDArray[np.float64], clusters: NDArray[np.intp] | None = None) -> int:
    """How many questions make the skewness of their mean small, at the shape seen."""
    skewness: float = max(_against(values, groups) for groups in _levels(clusters))
    return math.ceil(values.size * skewness * skewness / SMALL**2)


def effective_count(count: int, clusters: NDArray[np.intp] | None) -> float:
    """How many independent questions weigh as much as these: with clusters, at least one and at most their number."""
    return count if clusters is None else count**2 / float(np.sum(np.bincount(clusters) ** 2.0))


def hoeffding_p(mean: Any, reach: Any, count: float, *, sides: int = 2) -> Any:
    """p-value of no mean difference for any shape of differences between `-reach` and `reach` (Hoeffding 1963)."""
    return np.minimum(1.0, sides * np.exp(-count * (mean / np.where(reach > 0, reach, 1.0)) ** 2 / 2))


def hoeffding_distance(reach: float, count: float, confidence: float) -> float:
    """How far such a mean is from the truth at most, with probability `confidence`."""
    return reach * math.sqrt(2 * math.log(2 / (1 - confidence)) / count)


def unseen_p(mean: Any, count: float) -> Any:
    """p-value of no mean difference where all of `count` differences between -1 and 1 are `mean`: by the score test of
    the share of questions that differ by 1 the other way, of which none was seen."""
    return np.minimum(1.0, 2 * stats.norm.sf(np.sqrt(count * np.abs(mean))))


def _levels(clusters: NDArray[np.intp] | None) -> list[NDArray[np.intp] | None]:
    return [None] if clusters is None else [None, clusters]


def _units(values: NDArray[np.float64], groups: NDArray[np.intp] | None) -> int:
    return values.shape[-1] if groups is None else int(groups.max()) + 1


def _against(values: NDArray[np.float64], groups: NDArray[np.intp] | None) -> Any:
    """The skewness of the mean, positive where the longer tail is on the other side of zero."""
    means = values.mean(axis=-1, keepdims=True)
    deviations = values - means
    if groups is not None:
        deviations = deviations @ (groups[:, None] == np.arange(_units(values, groups)))
    largest = np.abs(deviations).max(axis=-1, keepdims=True)
    scaled = deviations / np.where(largest > 0, largest, 1.0)
    variance = np.mean(scaled**2, axis=-1)
    skewness = np.mean(scaled**3, axis=-1) / np.where(variance > 0, variance, 1.0) ** 1.5
    return -np.sign(means[..., 0]) * skewness / math.sqrt(deviations.shape[-1])
