"""Long prompts in parts, so that short ones need not wait: which part of which prompt is computed next. Pure."""

from dataclasses import dataclass, field
from typing import Any

# Multiples of the cache's block, so that the next part finds all of the part before there.
CHUNK_TOKENS = 512
SHARED_CHUNK_TOKENS = 128  # beside other answers, each of whose tokens waits for the part


@dataclass(eq=False)
class Prefill:
    """A long prompt of `tokens` tokens, of which `done` are computed. `waited` counts the parts of others since then.

    `handle` belongs to the engine: the part up to token `end` that is being computed, None for none.
    """

    answer: Any
    tokens: int
    done: int = 0
    waited: int = 0
    handle: Any = None
    end: int = 0


@dataclass
class PrefillQueue:
    """The long prompts that are not yet computed."""

    items: list[Prefill] = field(default_factory=list)

    @property
    def current(self) -> Prefill | None:
        """The prompt of which a part is being computed."""
        return next((item for item in self.items if item.handle is not None), None)

    def add(self, answer: Any, tokens: int) -> None:
        self.items.append(Prefill(answer, tokens))

    def remove(self, answer: Any) -> Prefill | None:
        """Remove the prompt of an answer and return it, None if it is not here."""
        found = next((item for item in self.items if item.answer is answer), None)
        if found is not None:
            self.items.remove(found)
        return found

    def choose(self, *, alone: bool) -> Prefill | None:
        """Return the prompt with the fewest tokens left, and set the end of its next part.

        Each part that a prompt waits counts as one of its own. `alone` is whether no other answer is generated.
        """
        if not self.items:
            return None
        chosen = min(self.items, key=lambda item: item.tokens - item.done - item.waited * CHUNK_TOKENS)
        for item in self.items:
            item.waited += item is not chosen
        chosen.end = min(chosen.done + (CHUNK_TOKENS if alone else SHARED_CHUNK_TOKENS), chosen.tokens)
        return chosen
