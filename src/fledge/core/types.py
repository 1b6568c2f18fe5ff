"""Values that several packages speak of."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str
