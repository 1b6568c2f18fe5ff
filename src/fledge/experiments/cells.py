"""Cells: one answer each, of arm x question x sample; their order, and what came of them."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fledge.experiments.arms import Arm
from fledge.questions.question_set import Question


@dataclass(frozen=True)
class Cell:
    """One answer to get. `key` tells it from every other; `attempt` counts from 1."""

    arm: str
    question: Question
    sample: int
    key: str
    attempt: int = 1


@dataclass(frozen=True)
class Answer:
    """What came of a cell: text and scores, or an error. It is a line of the journal, so all of it is plain data.

    Moments are nanoseconds since the epoch. `final` is false for an error that may pass. `steps` are the spans that
    MLflow's own tracing saw inside the chain. `score_errors` say why a scorer gave no score, `rationales` why a judge
    gave the one it gave. An answer that is not `graded` waits for what a judge says of it; one that is `reused_from` a
    run was generated there.
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
    """The id of the trace of one attempt at a cell: made from what it is the trace of, so that one written twice is
    one."""
    return f"tr-{hashlib.sha256(f'{run_id}:{key}:{attempt}'.encode()).hexdigest()[:32]}"


def order_cells(arms: Sequence[Arm], questions: Sequence[Question], samples: int, seed: int) -> list[Cell]:
    """All cells, interleaved over arms in a seeded random order."""
    cells = [
        Cell(arm.name, question, sample, arm.key(question, sample))
        for arm in arms
        for question in questions
        for sample in range(samples)
    ]
    random.Random(seed).shuffle(cells)
    return cells
