"""What answers a cell: an engine that a prompt is put to, or a chain of the user's own."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fledge.core.generation import GenerationParams
from fledge.engines.engine import Engine, generate
from fledge.engines.stream import Completion
from fledge.experiments.cells import Cell
from fledge.prompts.prompt import Prompt

# Run the chain of a cell within its trace; return what it gave and the spans seen.
Traced = Callable[[Cell, Callable[[], Any]], tuple[Any, list[dict[str, Any]]]]


@dataclass
class Exchange:
    """What is learnt of an answer while it is asked for: the prompt as it was filled in, and when (nanoseconds since
    the epoch, 0 until then); the engine's `completion`, or the tokens that another model counted; the spans seen."""

    prompt_text: str = ""
    filled_ns: int = 0
    completion: Completion | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)

    def fill(self, text: str) -> None:
        """Note the text that the first model is asked."""
        if not self.filled_ns:
            self.prompt_text, self.filled_ns = text, time.time_ns()


class Asker(Protocol):
    """Answers cells of one arm and sample."""

    def __call__(self, cell: Cell, exchange: Exchange) -> str:
        """Return the text of the answer, and note in `exchange` how it came about. May raise anything."""
        ...


@dataclass(frozen=True)
class PromptAsker:
    """Fills a prompt with the columns of the question and has an engine answer it."""

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
