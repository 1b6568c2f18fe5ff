"""Askers: get the answer to a cell, from an engine by a prompt; `chain_asker.py` has the one for custom chains."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fledge.core.generation import GenerationParams
from fledge.engines.engine import Engine, generate
from fledge.engines.stream import Completion
from fledge.experiments.cells import Cell
from fledge.prompts.prompt import Prompt

# Run the chain of a cell within its trace; return its result and the recorded spans.
Traced = Callable[[Cell, Callable[[], Any]], tuple[Any, list[dict[str, Any]]]]


@dataclass
class Exchange:
    """Details of one request: the filled prompt and when it was filled (nanoseconds since the epoch, 0 before), the
    engine's `completion` or the token counts of another model, and the recorded spans."""

    prompt_text: str = ""
    filled_ns: int = 0
    completion: Completion | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)

    def fill(self, text: str) -> None:
        """Record the text sent to the first model."""
        if not self.filled_ns:
            self.prompt_text, self.filled_ns = text, time.time_ns()


class Asker(Protocol):
    """Answers cells of one arm and sample."""

    def __call__(self, cell: Cell, exchange: Exchange) -> str:
        """Return the text of the answer and record details in `exchange`. May raise anything."""
        ...


@dataclass(frozen=True)
class PromptAsker:
    """Fills a prompt with the columns of the question and sends it to an engine."""

    prompt: Prompt
    engine: Engine
    params: GenerationParams

    def __call__(self, cell: Cell, exchange: Exchange) -> str:
        filled = self.prompt.fill(cell.question.variables)
        if isinstance(filled, str):
            exchange.fill(filled)
        else:
            exchange.fill("\n\n".join(f"{turn.role}: {turn.content}" for turn in filled))
        (exchange.completion,) = generate(self.engine, [filled], self.params)
        return exchange.completion.text
