"""Types shared by several packages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Say = Callable[[str], None]
"""Receives a message for the user."""

Format = Literal["chat", "completion"]
"""How prompts are formatted: a conversation through the chat template, or a text to complete."""

Content = Literal["keep", "hash", "drop"]
"""How texts are stored in records."""

Mode = Literal["exact", "fast"]
"""Mode of an engine: `exact` generates the same greedy tokens as transformers, `fast` uses int8."""


Role = Literal["system", "user", "assistant"]
"""The author of a turn."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class EngineInfo:
    """Name, device (`cpu`, `gpu` or the host of a URL) and mode of an engine, and the reason for choosing it."""

    name: str
    device: str
    mode: Mode
    reason: str


def silent(_text: str) -> None:
    """A `Say` that discards messages."""
