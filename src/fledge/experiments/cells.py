"""Cells (arm x question x sample), their order, and their answers."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fledge.experiments.arms import Arm
from fledge.questions.question_set import Question


@dataclass(frozen=True)
class Cell:
    """One answer to generate. `key` identifies it; `attempt` counts from 1."""

    arm: str
    question: Question
    sample: int
    key: str
    attempt: int = 1


@dataclass(frozen=True)
class Answer:
    """The result of a cell: text and scores, or an error. It is a line of the journal, so all fields are plain data.

    Times are in nanoseconds since the epoch. `final` is false for a transient error. `steps` are the spans that
    MLflow's tracing recorded inside the chain. `score_errors` are the errors of scorers by name, `rationales` a judge's
    explanations. An answer that is not `graded` still needs a judge. `reused_from` is the run that generated it.
    """

    key: str
    attempt: int
    arm: str
    question_id: str
    sample: int
    prompt_text: str
    text: str
    error: str
    final: bool
    started_ns: int
    filled_ns: int
    submitted_ns: int
    generated_ns: int
    ended_ns: int
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    latency_s: float | None = None
    cost: float = 0.0
    turns_left_out: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    score_errors: dict[str, str] = field(default_factory=dict)
    rationales: dict[str, str] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    graded: bool = True
    reused_from: str = ""


def trace_id(run_id: str, key: str, attempt: int) -> str:
    """Return the id of the trace of one attempt at a cell; it is derived, so that writing it twice makes one trace."""
    return f"tr-{hashlib.sha256(f'{run_id}:{key}:{attempt}'.encode()).hexdigest()[:32]}"


def order_cells(arms: Sequence[Arm], questions: Sequence[Question], samples: int, seed: int) -> list[Cell]:
    """Return all cells in a seeded random order, interleaved over arms."""
    cells = [
        Cell(arm.name, question, sample, arm.key(question, sample))
        for arm in arms
        for question in questions
        for sample in range(samples)
    ]
    random.Random(seed).shuffle(cells)
    return cells
