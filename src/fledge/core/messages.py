"""Messages between an engine and its client, and between the processes of an endpoint."""

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SHADOW_TAG = "fledge.shadow_of"


@dataclass(frozen=True)
class Ask:
    """Client to engine: start the answers to one prompt. One of `text`, `messages` (role, content) and `token_ids` is
    set. Without `stream` each answer is sent as one piece."""

    id: str
    params: dict[str, Any]
    text: str | None = None
    messages: list[tuple[str, str]] | None = None
    token_ids: list[int] | None = None
    stream: bool = True


@dataclass(frozen=True)
class Cancel:
    """Client to engine: stop these answers."""

    id: str


class TokenScore(NamedTuple):
    """A token's bytes and its log probability, None if unknown; `top` has the likeliest tokens there, if known."""

    token: bytes
    logprob: float | None
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Engine to client: the next part of an answer. The last part has a `finish_reason`, or an `error`, which ends all
    answers to the prompt.

    `index` tells several answers to one prompt apart. `error_kind` is the name of a class of `InputError` for a prompt
    that the model cannot take, `deadline` for an answer that the deadline cut, else `engine`. `turns_left_out` counts
    the oldest turns of a conversation that the window had no room for. `logprobs` come where asked for, `prompt`
    with the first piece of an answer that echoes its prompt.

    `first_token_ns` and `made_ns` tell when its first and its last token were there, in nanoseconds since the epoch.
    """

    id: str
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    turns_left_out: int = 0
    finish_reason: str | None = None
    error: str = ""
    error_kind: str = ""
    hint: str = ""
    logprobs: list[TokenScore] | None = None
    prompt: list[TokenScore] | None = None
    first_token_ns: int = 0
    made_ns: int = 0


@dataclass(frozen=True)
class Answered:
    """One recorded answer of a request. Times in nanoseconds since the epoch, 0 for none."""

    prompt_text: str = ""
    output: str = ""
    started_ns: int = 0
    first_token_ns: int = 0
    ended_ns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""


@dataclass(frozen=True)
class OutboxRecord:
    """One request and its outcome, written by the endpoint for the recorder. Times in nanoseconds since the epoch.

    `arm` is the alias that answered, empty if the request named a version. `release`, `version` and `arm` are empty for
    a request that was refused before it was clear who would answer. `settings` are the generation settings; with
    several prompts or answers, `seed` is that of the first.
    """

    trace_id: str
    request_id: str
    route: str
    status: int
    started_ns: int
    ended_ns: int
    release: str = ""
    version: int = 0
    arm: str = ""
    prompt: str = ""
    inputs: Any = None
    answers: list[Answered] = field(default_factory=list)
    error: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_shadow(self) -> bool:
        """Whether it is the shadow answer to the request in its tag."""
        return SHADOW_TAG in self.tags

    @property
    def prompt_tokens(self) -> int:
        return sum(answer.prompt_tokens for answer in self.answers)

    @property
    def completion_tokens(self) -> int:
        return sum(answer.completion_tokens for answer in self.answers)

    @property
    def first_token_ns(self) -> int:
        """Return the time of the first token of all answers, 0 without tokens."""
        return min((answer.first_token_ns for answer in self.answers if answer.first_token_ns), default=0)


@dataclass(frozen=True)
class FeedbackRecord:
    """Feedback on an answer; a line of the outbox, as requests are."""

    feedback_id: str
    request_id: str
    name: str
    value: bool | float | str
    comment: str = ""
    user: str = ""
    time_ns: int = field(default_factory=time.time_ns)


Record = OutboxRecord | FeedbackRecord
"""A line of the outbox."""
