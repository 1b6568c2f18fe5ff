"""Values that several packages speak of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Say = Callable[[str], None]
"""Takes a line for the user of a program: what happens, what takes long, what is doubtful."""

Format = Literal["chat", "completion"]
"""How a model is asked: a conversation through its chat template, or a text to complete."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def silent(_text: str) -> None:
    """The `Say` of whoever does not want to hear."""
