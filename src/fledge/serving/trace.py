"""The trace of one request, which becomes its record in the outbox."""

import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from fledge.core.messages import Answered, OutboxRecord, Piece, TokenScore
from fledge.core.texts import counted


@dataclass
class Result:
    """One answer, or the part generated so far."""

    prompt_text: str = ""
    text: str = ""
    started_ns: int = field(default_factory=time.time_ns)
    first_token_ns: int = 0
    ended_ns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    turns_left_out: int = 0
    finish_reason: str = ""
    late: bool = False  # cut at the deadline
    logprobs: list[TokenScore] = field(default_factory=list)
    prompt: list[TokenScore] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        if piece.token_ids or piece.text:
            self.first_token_ns = self.first_token_ns or piece.first_token_ns
        self.text += piece.text
        self.completion_tokens += len(piece.token_ids)
        self.prompt_tokens = piece.prompt_tokens
        self.turns_left_out = piece.turns_left_out
        self.logprobs += piece.logprobs or []
        self.prompt += piece.prompt or []
        if piece.finish_reason:
            self.finish_reason = piece.finish_reason
            self.late = piece.error_kind == "deadline"
            self.ended_ns = time.time_ns()


@dataclass
class RequestTrace:
    """One request: its input, the release that answers, and its outcome.

    `results` has `n` consecutive answers for each prompt.
    `status` overrides the sent status if a stream failed after its first byte.
    `pieces` generates the answers; it is always closed at the end of the request.
    """

    route: str
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    started_ns: int = field(default_factory=time.time_ns)
    inputs: Any = None
    release: str = ""
    version: int = 0
    arm: str = ""
    prompt: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    n: int = 1
    error: str = ""
    status: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    pieces: AsyncGenerator[Any] | None = None

    @property
    def notes(self) -> list[str]:
        """Return what a client should know of the answers, for the warning header."""
        late = sum(result.late for result in self.results)
        most = self.settings.get("max_tokens", 0)
        short = [item for item in self.results if item.finish_reason == "length" and item.completion_tokens < most]
        full = sum(not item.late for item in short)
        notes = [(late, "cut at the deadline"), (full, "cut at the end of the context window")]
        return [f"{counted(count, 'answer')} {note}" for count, note in notes if count]

    def finish(self, status: int) -> OutboxRecord:
        """End the request now, and return its record."""
        now = time.time_ns()
        answers = [
            Answered(
                result.prompt_text,
                result.text,
                result.started_ns,
                result.first_token_ns,
                result.ended_ns or now,
                0 if index % self.n else result.prompt_tokens,
                result.completion_tokens,
                result.finish_reason,
            )
            for index, result in enumerate(self.results)
        ]
        return OutboxRecord(
            trace_id=f"tr-{self.request_id}",
            request_id=self.request_id,
            route=self.route,
            status=self.status or status,
            started_ns=self.started_ns,
            ended_ns=now,
            release=self.release,
            version=self.version,
            arm=self.arm,
            prompt=self.prompt,
            inputs=self.inputs,
            answers=answers,
            settings=self.settings,
            error=self.error,
            tags=self.tags,
        )
