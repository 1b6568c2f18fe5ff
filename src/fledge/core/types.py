"""Values that several packages speak of."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["chat", "completion"]
"""How a model is asked: a conversation through its chat template, or a text to complete."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str
