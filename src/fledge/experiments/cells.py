"""Cells: one answer each, of arm x question x sample; their order, and asking them."""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable

from fledge.core.errors import FledgeError
from fledge.models.engine import Completion
from fledge.prompts.template import fill
from fledge.questions.question_set import Question
from fledge.scoring.scorers import score


@dataclass(frozen=True)
class Cell:
    """One answer to get."""

    arm: str
    question: Question
    sample: int


@dataclass(frozen=True)
class Answer:
    """What came of a cell: text and scores, or an error. Times in nanoseconds since the epoch."""

    cell: Cell
    prompt_text: str
    text: str
    completion: Completion | None
    scores: dict[str, float]
    error: str
    started_ns: int
    filled_ns: int
    generated_ns: int
    ended_ns: int


def order_cells(arms: Iterable[str], questions: Sequence[Question], samples: int, seed: int) -> list[Cell]:
    """All cells, interleaved over arms in a seeded random order."""
    cells = [Cell(arm, question, sample) for arm in arms for question in questions for sample in range(samples)]
    random.Random(seed).shuffle(cells)
    return cells


@dataclass
class _Listener(BaseCallbackHandler):
    """Keeps what the engine tells of one cell's answer."""

    completion: Completion | None = None
    generated_ns: int = field(default=0)

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        info = response.generations[0][0].generation_info or {}
        self.completion = info.get("completion")
        self.generated_ns = time.time_ns()


def ask(
    cells: Sequence[Cell],
    chains: dict[tuple[str, int], Runnable[dict[str, str], str]],
    templates: dict[str, str],
    *,
    concurrency: int,
) -> Iterator[list[Answer]]:
    """Answers in groups as they are done; `chains` holds one chain for each arm and sample.

    Chains of one group run together, so that the engine batches over arms.
    """
    pool = ThreadPoolExecutor()
    try:
        for start in range(0, len(cells), concurrency):
            groups: dict[tuple[str, int], list[Cell]] = {}
            for cell in cells[start : start + concurrency]:
                groups.setdefault((cell.arm, cell.sample), []).append(cell)
            parts = [pool.submit(_ask_together, group, chains[key], templates[key[0]]) for key, group in groups.items()]
            yield [answer for part in parts for answer in part.result()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ask_together(cells: list[Cell], chain: Runnable[dict[str, str], str], template: str) -> list[Answer]:
    started = time.time_ns()
    prompts = [fill(template, cell.question.variables) for cell in cells]
    filled = time.time_ns()
    listeners = [_Listener() for _ in cells]
    inputs = [cell.question.variables for cell in cells]
    try:
        texts: list[str | Exception] = list(chain.batch(inputs, [{"callbacks": [item]} for item in listeners]))
    except FledgeError:
        # One bad cell fails its whole batch: ask again one by one, so that the others are not lost with it.
        listeners = [_Listener() for _ in cells]
        texts = [_ask_alone(chain, values, item) for values, item in zip(inputs, listeners, strict=True)]
    answers = []
    for cell, prompt, text, listener in zip(cells, prompts, texts, listeners, strict=True):
        failed = isinstance(text, Exception)
        completion = listener.completion
        generated = listener.generated_ns or time.time_ns()
        if completion is not None:
            generated = completion.started_ns + int(completion.seconds * 1e9)
        answers.append(
            Answer(
                cell=cell,
                prompt_text=prompt,
                text="" if failed else str(text),
                completion=completion,
                scores={} if failed else score(str(text), cell.question.reference),
                error=str(text) if failed else "",
                started_ns=started,
                filled_ns=filled,
                generated_ns=generated,
                ended_ns=max(generated, time.time_ns()),
            )
        )
    return answers


def _ask_alone(chain: Runnable[dict[str, str], str], values: dict[str, str], listener: _Listener) -> str | Exception:
    try:
        return chain.invoke(values, {"callbacks": [listener]})
    except FledgeError as error:
        return error
