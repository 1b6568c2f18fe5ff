"""The messages between the processes of an endpoint."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ask:
    """Endpoint to engine: start an answer. Exactly one of `text` and `messages` (role and content) is set."""

    id: str
    params: dict[str, Any]
    text: str | None = None
    messages: list[tuple[str, str]] | None = None


@dataclass(frozen=True)
class Cancel:
    """Endpoint to engine: nobody waits for this answer any more."""

    id: str


@dataclass(frozen=True)
class Piece:
    """Engine to endpoint: the next part of an answer; the last one has a `finish_reason` or an `error`.

    `error_kind` is `input` for a prompt that the model cannot take, else `engine`. `turns_left_out` counts the oldest
    turns of a conversation that the model's window had no room for.
    """

    id: str
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    turns_left_out: int = 0
    finish_reason: str | None = None
    error: str = ""
    error_kind: str = ""


@dataclass(frozen=True)
class OutboxRecord:
    """One request and its outcome, as the endpoint leaves it for the recorder. Times in nanoseconds since the epoch."""

    trace_id: str
    request_id: str
    route: str
    release: str
    version: int
    prompt: str
    status: int
    started_ns: int
    ended_ns: int
    first_token_ns: int = 0
    inputs: Any = None
    prompt_text: str = ""
    output: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    error: str = ""
    tags: dict[str, str] = field(default_factory=dict)
