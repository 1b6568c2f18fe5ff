"""Chat and text completions: the response to a request, whole or in chunks."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import accumulate
from typing import Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

from fledge.core.messages import Piece
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
    Logprobs,
    TextCompletion,
    TextCompletionChunk,
    TokenLogprob,
    TopLogprob,
)
from fledge.serving.trace import RequestTrace

ChunkChoice = TypeVar("ChunkChoice")
TokenLogprobs = Sequence[tuple[str, float]]


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
                if piece.text or piece.logprobs:
                    yield self.chunk([self.choice(index, replace(piece, finish_reason=None))], usage)
                if piece.finish_reason:
                    last = replace(piece, text="", logprobs=None)
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

    def __init__(self, trace: RequestTrace, n: int, *, with_usage: bool, with_top: bool) -> None:
        super().__init__(trace, n, with_usage=with_usage)
        self._with_top = with_top

    def build(self) -> ChatCompletion:
        choices = [
            ChatChoice(
                index, AssistantMessage(result.text, None), result.finish_reason, self._logprobs(result.logprobs)
            )
            for index, result in enumerate(self.trace.results)
        ]
        return ChatCompletion(self.id, self.created, self.trace.release, choices, self.usage())

    def first_choices(self) -> list[ChatChunkChoice]:
        delta = Delta("assistant", "")
        return [ChatChunkChoice(index, delta, None, None) for index in range(len(self.trace.results))]

    def choice(self, index: int, piece: Piece) -> ChatChunkChoice:
        delta = Delta(content=piece.text or UNSET)
        return ChatChunkChoice(index, delta, piece.finish_reason, self._logprobs(piece.logprobs))

    def chunk(self, choices: list[ChatChunkChoice], usage: CompletionUsage | UnsetType | None) -> ChatCompletionChunk:
        return ChatCompletionChunk(self.id, self.created, self.trace.release, choices, usage)

    def _logprobs(self, tokens: TokenLogprobs | None) -> ChatLogprobs | None:
        if not tokens:
            return None
        content = []
        for text, value in tokens:
            # The bytes of a token that is part of a character are unknown.
            encoded = None if "\ufffd" in text else list(text.encode())
            top = [TopLogprob(text, value, encoded)] if self._with_top else []
            content.append(TokenLogprob(text, value, encoded, top))
        return ChatLogprobs(content, None)


class CompletionBuilder(ResponseBuilder[CompletionChunkChoice]):
    """Builds text completions; `echoes` is the text before each answer."""

    prefix = "cmpl"

    def __init__(self, trace: RequestTrace, n: int, *, with_usage: bool, echoes: Sequence[str]) -> None:
        super().__init__(trace, n, with_usage=with_usage)
        self._echoes = echoes
        self._offsets = [len(text) for text in echoes]

    def build(self) -> TextCompletion:
        choices = [
            CompletionChoice(
                index, self._echoes[index] + result.text, result.finish_reason, self._logprobs(index, result.logprobs)
            )
            for index, result in enumerate(self.trace.results)
        ]
        return TextCompletion(self.id, self.created, self.trace.release, choices, self.usage())

    def first_choices(self) -> list[CompletionChunkChoice]:
        return [CompletionChunkChoice(index, text, None, None) for index, text in enumerate(self._echoes) if text]

    def choice(self, index: int, piece: Piece) -> CompletionChunkChoice:
        return CompletionChunkChoice(index, piece.text, piece.finish_reason, self._logprobs(index, piece.logprobs))

    def chunk(
        self, choices: list[CompletionChunkChoice], usage: CompletionUsage | UnsetType | None
    ) -> TextCompletionChunk:
        return TextCompletionChunk(self.id, self.created, self.trace.release, choices, usage)

    def _logprobs(self, index: int, tokens: TokenLogprobs | None) -> Logprobs | None:
        if not tokens:
            return None
        texts, values = [text for text, _ in tokens], [value for _, value in tokens]
        *offsets, self._offsets[index] = accumulate(map(len, texts), initial=self._offsets[index])
        return Logprobs(texts, values, [{text: value} for text, value in tokens], offsets)
