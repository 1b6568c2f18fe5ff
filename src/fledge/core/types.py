"""Types shared by several packages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Say = Callable[[str], None]
"""Receives a message for the user."""

Progress = Callable[[int, int, str], None]
"""Takes the number of steps done, the number of all steps, and what is done now."""

Format = Literal["chat", "completion"]
"""How prompts are formatted: a conversation through the chat template, or a text to complete."""

Content = Literal["keep", "hash", "drop"]
"""How texts are stored in records."""

Mode = Literal["exact", "fast", "gguf"]
"""Mode of an engine: the same greedy tokens as transformers, int8, or the weights of a GGUF file as they are."""


Role = Literal["system", "user", "assistant"]
"""The author of a turn."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class EngineInfo:
    """An engine, its device (`cpu`, `gpu`, or a URL's host), its mode, and the reason for the choice."""

    name: str
    device: str
    mode: Mode
    reason: str


def silent(_text: str) -> None:
    """A `Say` that discards messages."""


def no_progress(_done: int, _total: int, _step: str) -> None:
    """A `Progress` that shows nothing."""
