"""Simulated error rates and power of verdicts by the distribution of scores, by the rule of `paired_test`."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fledge.comparison.intervals import means_of_sets
from fledge.comparison.tails import effective_count, has_heavy_tail, hoeffding_p, unobserved_p

ALPHA = 0.05
FLIPS = 9_999
TABLES_AT_ONCE = 250
TOPICS = 12
QUESTIONS = (20, 40, 100, 400)
POWER_QUESTIONS = (20, 34, 40, 100)
MOST_ARMS = 5

Scores = NDArray[np.float64]
Clusters = NDArray[np.intp] | None
Draw = Callable[[np.random.Generator, tuple[int, int]], Scores]


class Shape(NamedTuple):
    """How to draw the scores of the baseline and of the other arms, and the standard deviation of a difference."""

    baseline: Draw
    other: Draw
    spread: float = 1.0


class Rates(NamedTuple):
    """Share of tables with any verdict of better or worse: by the rule of `paired_test`, and by sign flips alone."""

    now: float
    flips: float

    def __str__(self) -> str:
        return f"{self.now:.1%} ({self.flips:.1%})"


def _alike(draw: Draw, variance: float) -> Shape:
    return Shape(draw, draw, (2 * variance) ** 0.5)


def _constant(rng: np.random.Generator, size: tuple[int, int]) -> Scores:
    return rng.uniform(0.1, 0.1, size)


def _log_normal(rng: np.random.Generator, size: tuple[int, int]) -> Scores:
    return rng.lognormal(-1.125, 1.5, size)


def _topics_right(rng: np.random.Generator, size: tuple[int, int]) -> Scores:
    right = (rng.random((size[0], TOPICS)) < 0.1).astype(float)
    return right[:, np.arange(size[1]) % TOPICS]


# Pass or fail in one sample is left out: it has an exact test.
LIKE = {
    "normal": _alike(lambda rng, size: rng.normal(1, 1, size), 1),
    "beta(2, 4)": _alike(lambda rng, size: rng.beta(2, 4, size), 8 / 252),
    "beta(0.5, 2)": _alike(lambda rng, size: rng.beta(0.5, 2, size), 1 / 21.875),
    "3 samples, right or wrong": _alike(lambda rng, size: rng.binomial(3, 0.5, size) / 3, 1 / 12),
}


RARE = Shape(_constant, lambda rng, size: (rng.random(size) < 0.1).astype(float))
UNLIKE = {
    "constant 0.1, 1 in 10 right": RARE,
    "exponential (sd 0.1), log-normal (sigma 1.5)": Shape(
        lambda rng, size: 0.9 + rng.exponential(0.1, size), _log_normal
    ),
    "beta skewed right, beta skewed left": Shape(
        lambda rng, size: rng.beta(0.5, 1.5, size), lambda rng, size: 0.3125 * rng.beta(2, 0.5, size)
    ),
}
IN_TOPICS = {"constant 0.1, 1 topic in 10 right": Shape(_constant, _topics_right)}
# A log-normal with an unobserved tail looks like an exponential with a smaller mean.
BEYOND = {
    "exponential (sd 1), log-normal (sigma 1.5)": Shape(lambda rng, size: rng.exponential(1, size), _log_normal),
}


def rates(
    shape: Shape, tables: int, questions: int, arms: int = 2, *, shift: float = 0.0, topics: bool = False
) -> dict[int, Rates]:
    """Return the rates of tables with 2 to `arms` arms, by the number of arms; deterministic.

    `shift` is in standard deviations of a difference. With `topics` there are twelve, in each of which an arm has a
    strength of its own.
    """
    rng = np.random.default_rng([questions, topics])
    clusters = np.arange(questions) % TOPICS if topics else None
    sizes = [min(TABLES_AT_ONCE, tables - start) for start in range(0, tables, TABLES_AT_ONCE)]
    found = [_p_values(shape, rng, (size, questions), arms, shift, clusters) for size in sizes]
    now, flips = (np.concatenate(part) for part in zip(*found, strict=True))

    def share(p: Scores, pairs: int) -> float:
        return float(np.mean(p[:, :pairs].min(axis=1) * pairs < ALPHA))  # Holm's first step

    return {pairs + 1: Rates(share(now, pairs), share(flips, pairs)) for pairs in range(1, arms)}


def equal_means(tables: int) -> Iterator[tuple[str, list[dict[int, Rates]]]]:
    """Yield each shape, without and with topics, and the rates for equal means at each of `QUESTIONS`."""
    for topics, shapes in ((False, {**LIKE, **UNLIKE, **BEYOND}), (True, {**LIKE, **UNLIKE, **IN_TOPICS})):
        for name, shape in shapes.items():
            found = [rates(shape, tables, questions, MOST_ARMS, topics=topics) for questions in QUESTIONS]
            yield f"{name}; {TOPICS} topics" if topics else name, found


def half_apart(tables: int) -> Iterator[tuple[str, list[Rates]]]:
    """Yield each shape and the rates for means half a standard deviation apart at each of `POWER_QUESTIONS`."""
    for topics in (False, True):
        for name, shape in LIKE.items():
            found = [rates(shape, tables, questions, shift=0.5, topics=topics)[2] for questions in POWER_QUESTIONS]
            yield f"{name}; {TOPICS} topics" if topics else name, found


def p_values(a: Scores, b: Scores, flips: Scores, clusters: Clusters) -> Scores:
    """Return p-values by the rule of `paired_test`, given those of sign flips, for each table (row)."""
    differences, count = np.round(b - a, 12), effective_count(a.shape[1], clusters)
    means, both = differences.mean(axis=1), np.concatenate([a, b], axis=1)
    bound = hoeffding_p(means, np.ptp(both, axis=1), count)
    p = np.where(has_heavy_tail(differences, clusters), np.maximum(flips, bound), flips)
    alike = (np.ptp(differences, axis=1) == 0) & (both.min(axis=1) >= 0) & (both.max(axis=1) <= 1)
    return np.where(alike, np.maximum(p, unobserved_p(means, count)), p)


def flip(differences: Scores, clusters: Clusters, rng: np.random.Generator) -> Scores:
    """Return two-sided p-values by sign flips, with the same flips for each row."""
    if clusters is not None:
        return np.array([_flip_topics(row, clusters) for row in differences])
    signs = rng.integers(0, 2, (FLIPS, differences.shape[1])) * 2.0 - 1.0
    seen = np.abs(differences.sum(axis=1, keepdims=True))
    larger = np.sum(np.abs(differences @ signs.T) >= seen - 1e-9, axis=1)
    return np.asarray((1 + larger) / (FLIPS + 1))


def _flip_topics(row: Scores, clusters: NDArray[np.intp]) -> float:
    means = means_of_sets(row, clusters, 0)
    fewer = min(np.sum(means <= 0), np.sum(means >= 0))
    return min(1.0, 2 * float(1 + fewer) / (1 + len(means)))


def _p_values(
    shape: Shape, rng: np.random.Generator, size: tuple[int, int], arms: int, shift: float, clusters: Clusters
) -> tuple[Scores, Scores]:
    """Return the p-values of each table (row) and arm against the baseline, by the rule and by sign flips alone."""
    now, flips = np.ones((2, size[0], arms - 1))
    a = shape.baseline(rng, size)
    for place in range(arms - 1):
        strength = 1.0 if clusters is None else 2 * rng.beta(4, 4, (size[0], TOPICS))[:, clusters]
        b = shape.other(rng, size) * strength + shift * shape.spread
        flips[:, place] = flip(np.round(b - a, 12), clusters, rng)
        now[:, place] = p_values(a, b, flips[:, place], clusters)
    return now, flips
