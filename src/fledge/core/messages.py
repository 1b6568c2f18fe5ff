"""The messages between an engine and its client, and the records for the recorder."""

import time
from dataclasses import dataclass, field
from typing import Any

SHADOW_TAG = "fledge.shadow_of"


@dataclass(frozen=True)
class Ask:
    """Client to engine: answer one prompt: `text`, `messages` (role, content) or `token_ids`.

    Without `stream` each answer is sent as one piece when it is complete.
    """

    id: str
    params: dict[str, Any]
    text: str | None = None
    messages: list[tuple[str, str]] | None = None
    token_ids: list[int] | None = None
    stream: bool = True


@dataclass(frozen=True)
class Cancel:
    """Client to engine: cancel the answers to a prompt."""

    id: str


@dataclass(frozen=True)
class Piece:
    """Engine to client: the next part of an answer. The last part has a `finish_reason`, or an `error`, which ends all
    answers to the prompt.

    `index` is the number of the answer among those to the prompt. `error_kind` is `input` for an invalid prompt, else
    `engine`. `turns_left_out` counts the oldest turns that did not fit into the context window. `logprobs`, if
    requested, are pairs of a token's text and the natural logarithm of its probability. `first_token_ns` and `made_ns`
    are the times of its first and last token, in nanoseconds since the epoch.
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
    logprobs: list[tuple[str, float]] | None = None
    first_token_ns: int = 0
    made_ns: int = 0


@dataclass(frozen=True)
class Answered:
    """One recorded answer of a request. Times in nanoseconds since the epoch, 0 if the event did not happen."""

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
    """One request and its outcome, stored for the recorder. Times in nanoseconds since the epoch.

    `arm` is the alias that answered, empty if the request named a version. `release`, `version` and `arm` are empty for
    a request that was refused before routing.
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

    @property
    def is_shadow(self) -> bool:
        """Whether this is a shadow answer to the request named by the tag."""
        return SHADOW_TAG in self.tags

    @property
    def prompt_tokens(self) -> int:
        return sum(answer.prompt_tokens for answer in self.answers)

    @property
    def completion_tokens(self) -> int:
        return sum(answer.completion_tokens for answer in self.answers)

    @property
    def first_token_ns(self) -> int:
        """The time of the first token of any answer, 0 without tokens."""
        return min((answer.first_token_ns for answer in self.answers if answer.first_token_ns), default=0)


@dataclass(frozen=True)
class FeedbackRecord:
    """Feedback on an answer; stored in the outbox with the requests."""

    feedback_id: str
    request_id: str
    name: str
    value: bool | float | str
    comment: str = ""
    user: str = ""
    time_ns: int = field(default_factory=time.time_ns)
