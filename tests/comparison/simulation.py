"""Random score tables and the outcomes of comparing them, shared by the fast and the soak tests."""

import gc
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fledge.comparison.findings import Comparison
from fledge.comparison.options import CompareOptions
from fledge.comparison.verdict import compare_scores

KINDS = ("normal", "f1", "pass", "topics")


class Outcome(NamedTuple):
    """One simulated comparison: verdicts, intervals that contain the true difference, and all intervals."""

    verdicts: tuple[str, ...]
    held: int
    intervals: int


def draw(kind: str, questions: int, shifts: Sequence[float], seed: int) -> tuple[pd.DataFrame, list[float]]:
    """Draw a table with an arm for each shift, and return it with the true means of the arms.

    `normal`: scores that share a question's difficulty; a shift is in standard deviations of a difference. `f1`: a
    third of the answers score 1, the others spread from 0 to 1. `pass`: right or wrong. `topics`: twelve topics with
    an effect of each arm in each topic.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    moved = np.asarray(shifts, dtype=float)
    size = (questions, len(moved))
    difficulty = rng.normal(0, 1, (questions, 1))
    topic = np.arange(questions) % 12
    if kind in ("normal", "topics"):
        scores = difficulty + moved + rng.normal(0, np.sqrt(0.5), size)
        if kind == "topics":
            scores += rng.normal(0, 0.5, (12, len(moved)))[topic]
    elif kind == "f1":
        scores = np.where(rng.random(size) < 1 / 3, 1.0, rng.beta(2, 4, size)) + moved
    else:
        scores = (rng.random(size) < 0.5 + moved).astype(float)
    columns: dict[str, Any] = {
        "question": np.repeat(np.arange(questions), len(moved)),
        "arm": np.tile([f"arm{place}" for place in range(len(moved))], questions),
        "score": scores.ravel(),
    }
    if kind == "topics":
        columns["topic"] = np.repeat(topic, len(moved)).astype(str)
    return pd.DataFrame(columns), list(moved)


def outcome(kind: str, questions: int, shifts: Sequence[float], margin: float | None, seed: int) -> Outcome:
    table, means = draw(kind, questions, shifts, seed)
    result: Comparison = compare_scores(table, "score", CompareOptions(margin=margin))
    truths = [mean - means[0] for mean in means[1:]]
    held = sum(pair.ci[0] <= truth <= pair.ci[1] for pair, truth in zip(result.pairs, truths, strict=True))
    return Outcome(tuple(pair.verdict for pair in result.pairs), held, len(result.pairs))


def simulate(
    count: int, kind: str, questions: int, shifts: Sequence[float], margin: float | None = None
) -> list[Outcome]:
    """Run `count` comparisons on all cores; deterministic."""
    # statsmodels' corrections collect garbage on each call, which is slow with many modules loaded.
    with ProcessPoolExecutor(initializer=gc.freeze) as pool:
        return list(pool.map(partial(outcome, kind, questions, shifts, margin), range(count), chunksize=20))


def share(outcomes: Sequence[Outcome], *verdicts: str) -> float:
    """Return the share of comparisons with any of these verdicts."""
    return sum(any(found in verdicts for found in item.verdicts) for item in outcomes) / len(outcomes)


def coverage(outcomes: Sequence[Outcome]) -> float:
    """Return the share of intervals that contain the true difference."""
    return sum(item.held for item in outcomes) / sum(item.intervals for item in outcomes)
