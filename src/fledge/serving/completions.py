"""Chat and text completions: the response to a request, whole or in chunks."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import accumulate
from typing import Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

from fledge.core.messages import Piece, TokenScore
from fledge.serving.response_models import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    CompletionChoice,
    CompletionChunkChoice,
    CompletionUsage,
    Delta,
    FunctionCall,
    FunctionDelta,
    Logprobs,
    MessageToolCall,
    TextCompletion,
    TextCompletionChunk,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
)
from fledge.serving.tools import CallParser
from fledge.serving.trace import RequestTrace

ChunkChoice = TypeVar("ChunkChoice")


class ResponseBuilder(ABC, Generic[ChunkChoice]):
    """Builds the response to one request from its trace, or chunks from the pieces of its answers."""

    prefix: str

    def __init__(self, trace: RequestTrace, n: int, *, with_usage: bool) -> None:
        self.trace = trace
        self.id = f"{self.prefix}-{trace.request_id}"
        self.created = int(time.time())
        self._n = n
        self._with_usage = with_usage

    @abstractmethod
    def build(self) -> Struct:
        """Return the complete response."""

    @abstractmethod
    def first_choices(self) -> Sequence[ChunkChoice]:
        """Return the choices that are sent before the first token."""

    @abstractmethod
    def choice(self, index: int, piece: Piece) -> ChunkChoice:
        """Return the choice for a piece of the answer `index`."""

    def is_empty(self, choice: ChunkChoice) -> bool:  # noqa: ARG002
        """Return whether a choice adds nothing."""
        return False

    @abstractmethod
    def chunk(self, choices: list[ChunkChoice], usage: CompletionUsage | UnsetType | None) -> Struct:
        """Return one event of the stream."""

    async def chunks(self, pieces: AsyncGenerator[tuple[int, Piece]]) -> AsyncGenerator[Struct]:
        """Yield a chunk for each piece with text, and an empty one with the finish reason of each answer."""
        usage = None if self._with_usage else UNSET
        for first in self.first_choices():
            yield self.chunk([first], usage)
        async with aclosing(pieces):
            async for index, piece in pieces:
                if piece.text or piece.logprobs or piece.prompt:
                    choice = self.choice(index, replace(piece, finish_reason=None))
                    if not self.is_empty(choice):
                        yield self.chunk([choice], usage)
                if piece.finish_reason:
                    last = replace(piece, text="", logprobs=None, prompt=None)
                    yield self.chunk([self.choice(index, last)], usage)
        if self._with_usage:
            yield self.chunk([], self.usage())

    def usage(self) -> CompletionUsage:
        """Return the token counts; each prompt counts once, however many answers it has."""
        results = self.trace.results
        prompt = sum(result.prompt_tokens for result in results[:: self._n])
        new = sum(result.completion_tokens for result in results)
        return CompletionUsage(prompt, new, prompt + new)


class ChatBuilder(ResponseBuilder[ChatChunkChoice]):
    """Builds chat completions."""

    prefix = "chatcmpl"

    def __init__(
        self, trace: RequestTrace, n: int, *, with_usage: bool, with_top: bool, calls_tools: bool = False
    ) -> None:
        """With `calls_tools` every answer is a call."""
        super().__init__(trace, n, with_usage=with_usage)
        self._with_top = with_top
        self._calls: dict[int, CallParser] | None = {} if calls_tools else None

    def build(self) -> ChatCompletion:
        choices = [
            ChatChoice(
                index,
                self._message(index, result.text, result.finish_reason),
                self._finish(result.finish_reason),
                self._logprobs(result.logprobs),
            )
            for index, result in enumerate(self.trace.results)
        ]
        return ChatCompletion(self.id, self.created, self.trace.release, choices, self.usage())

    def _message(self, index: int, text: str, finish_reason: str) -> AssistantMessage:
        if self._calls is None:
            return AssistantMessage(text, None)
        name, arguments = CallParser().feed(text, ends=True, complete=finish_reason == "stop")
        calls = [MessageToolCall(self._call_id(index), FunctionCall(name, arguments))] if name else []
        return AssistantMessage(None, None, calls)

    def _finish(self, reason: str) -> str:
        return "tool_calls" if self._calls is not None and reason == "stop" else reason

    def _call_id(self, index: int) -> str:
        return f"call_{self.trace.request_id[:20]}{index:04x}"

    def first_choices(self) -> list[ChatChunkChoice]:
        delta = Delta("assistant", "" if self._calls is None else None)
        return [ChatChunkChoice(index, delta, None, None) for index in range(len(self.trace.results))]

    def choice(self, index: int, piece: Piece) -> ChatChunkChoice:
        delta = Delta(content=piece.text or UNSET) if self._calls is None else self._call_delta(index, piece)
        reason = piece.finish_reason and self._finish(piece.finish_reason)
        return ChatChunkChoice(index, delta, reason, self._logprobs(piece.logprobs))

    def is_empty(self, choice: ChatChunkChoice) -> bool:
        return choice.delta == Delta() and choice.logprobs is None

    def _call_delta(self, index: int, piece: Piece) -> Delta:
        assert self._calls is not None  # noqa: S101 (of the caller)
        parser = self._calls.setdefault(index, CallParser())
        ends = bool(piece.finish_reason)
        name, arguments = parser.feed(piece.text, ends=ends, complete=piece.finish_reason == "stop")
        if name:
            function = FunctionDelta(arguments, name)
            return Delta(tool_calls=[ToolCallDelta(0, function, self._call_id(index), "function")])
        return Delta(tool_calls=[ToolCallDelta(0, FunctionDelta(arguments))] if arguments else UNSET)

    def chunk(self, choices: list[ChatChunkChoice], usage: CompletionUsage | UnsetType | None) -> ChatCompletionChunk:
        return ChatCompletionChunk(self.id, self.created, self.trace.release, choices, usage)

    def _logprobs(self, tokens: Sequence[TokenScore] | None) -> ChatLogprobs | None:
        if not tokens:
            return None
        content = []
        for score in tokens:
            top = [TopLogprob(*_spell(token, value)) for token, value in score.top] if self._with_top else []
            content.append(TokenLogprob(*_spell(score.token, score.logprob or 0.0), top))
        return ChatLogprobs(content, None)


class CompletionBuilder(ResponseBuilder[CompletionChunkChoice]):
    """Builds text completions; `echoes` is the text before each answer, None to take it from the engine.

    An echoed prompt has log probabilities only if the request is `scored`.
    """

    prefix = "cmpl"

    def __init__(
        self, trace: RequestTrace, n: int, *, with_usage: bool, echoes: Sequence[str | None], scored: bool = True
    ) -> None:
        super().__init__(trace, n, with_usage=with_usage)
        self._echoes = echoes
        self._scored = scored
        self._offsets = [0] * len(echoes)

    def build(self) -> TextCompletion:
        choices = [
            CompletionChoice(
                index,
                self._echo(index, result.prompt) + result.text,
                result.finish_reason,
                self._logprobs(index, [*result.prompt, *result.logprobs] if result.logprobs else result.prompt),
            )
            for index, result in enumerate(self.trace.results)
        ]
        return TextCompletion(self.id, self.created, self.trace.release, choices, self.usage())

    def first_choices(self) -> list[CompletionChunkChoice]:
        return [CompletionChunkChoice(index, text, None, None) for index, text in enumerate(self._echoes) if text]

    def choice(self, index: int, piece: Piece) -> CompletionChunkChoice:
        scores = [*(piece.prompt or ()), *(piece.logprobs or ())]
        echo = self._echo(index, piece.prompt) if self._echoes[index] is None and piece.prompt else ""
        return CompletionChunkChoice(index, echo + piece.text, piece.finish_reason, self._logprobs(index, scores))

    def chunk(
        self, choices: list[CompletionChunkChoice], usage: CompletionUsage | UnsetType | None
    ) -> TextCompletionChunk:
        return TextCompletionChunk(self.id, self.created, self.trace.release, choices, usage)

    def _echo(self, index: int, prompt: Sequence[TokenScore] | None) -> str:
        known = self._echoes[index]
        return _join(prompt or ()) if known is None else known

    def _logprobs(self, index: int, scores: Sequence[TokenScore]) -> Logprobs | None:
        if not scores or not self._scored:
            return None
        if not self._offsets[index] and not (scores and scores[0].logprob is None):
            self._offsets[index] = len(self._echoes[index] or "")
        texts = [score.token.decode("utf-8", "replace") for score in scores]
        *offsets, self._offsets[index] = accumulate(map(len, texts), initial=self._offsets[index])
        top = [_top_logprobs(score) for score in scores]
        return Logprobs(texts, [score.logprob for score in scores], top, offsets)


def _spell(token: bytes, logprob: float) -> tuple[str, float, list[int]]:
    return token.decode("utf-8", "replace"), logprob, list(token)


def _join(scores: Sequence[TokenScore]) -> str:
    return b"".join(score.token for score in scores).decode("utf-8", "replace")


def _top_logprobs(score: TokenScore) -> dict[str, float] | None:
    """Return the likeliest tokens and the token itself."""
    if score.logprob is None:
        return None
    known = [*score.top, (score.token, score.logprob)]
    return {token.decode("utf-8", "replace"): value for token, value in known}
