"""Values that several packages speak of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Say = Callable[[str], None]
"""Takes a line for the user of a program: what happens, what takes long, what is doubtful."""

Format = Literal["chat", "completion"]
"""How a model is asked: a conversation through its chat template, or a text to complete."""

Content = Literal["keep", "hash", "drop"]
"""What becomes of texts in records."""

Mode = Literal["exact", "fast"]
"""Of an engine: the same greedy tokens as transformers, or int8."""


Role = Literal["system", "user", "assistant"]
"""Who speaks in a conversation."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class EngineInfo:
    """Which engine runs, where (`cpu`, `gpu`, or a URL's host), in which mode, and in words why it was chosen."""

    name: str
    device: str
    mode: Mode
    reason: str


def silent(_text: str) -> None:
    """The `Say` of whoever does not want to hear."""
