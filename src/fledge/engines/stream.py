"""The answers to one prompt, in chunks or complete."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from fledge.core.errors import FledgeError
from fledge.core.messages import TokenScore

FinishReason = Literal["stop", "length", "cancelled"]
Listener = Callable[["Chunk | Exception"], None]


@dataclass(frozen=True)
class Usage:
    """The tokens of an answer, and its cost in the currency of the prices, 0 without prices."""

    prompt_tokens: int
    completion_tokens: int
    cost: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """The next tokens of an answer, and the text that they complete; the last chunk has `finish_reason` and `usage`.

    `index` is the number of the answer among the `n` to one prompt. If requested, `logprobs` has one value for each
    token, `tokens` their bytes, `top` the likeliest tokens in their places, and `prompt` those of an echoed prompt.
    `made_ns` is when the last token was generated, in nanoseconds since the epoch; 0 means the time of arrival.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] = ()
    index: int = 0
    usage: Usage | None = None
    tokens: tuple[bytes, ...] = ()
    made_ns: int = 0
    prompt: tuple[TokenScore, ...] = ()
    top: tuple[tuple[tuple[bytes, float], ...], ...] = ()


@dataclass(frozen=True)
class Completion:
    """A complete answer. Times are in seconds; `started_ns` is nanoseconds since the epoch.

    `turns_left_out` is the number of oldest turns that did not fit in the model's context window.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    started_ns: int
    ttft_s: float
    seconds: float
    logprobs: tuple[float, ...] = ()
    turns_left_out: int = 0

    @property
    def prompt_tokens(self) -> int:
        return self.usage.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        return self.usage.completion_tokens


@dataclass
class Stream:
    """The answers to one prompt: iterate for chunks, call `result` for a complete answer, or `listen`.

    An engine calls `put` for each chunk, or `fail` once. It sets `prompt_tokens` and `turns_left_out` before the first
    chunk.
    """

    prompt_tokens: int = 0
    n: int = 1
    turns_left_out: int = 0
    started_ns: int = field(default_factory=time.time_ns)
    cancelled: bool = False
    on_cancel: Callable[[], None] | None = None
    read: bool = False
    _queue: "queue.SimpleQueue[tuple[int, Chunk | Exception]]" = field(default_factory=queue.SimpleQueue)
    _listener: "Listener | None" = None
    _left: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._left = self.n

    def put(self, chunk: Chunk) -> None:
        if chunk.finish_reason:
            with self._lock:
                self._left -= 1
        self._pass_on(chunk, chunk.made_ns)
        if not self._left:
            self._ended.set()

    def fail(self, error: Exception) -> None:
        self.cancelled = True  # nobody waits for the other answers to this prompt
        self._pass_on(error)
        self._ended.set()

    def restart(self) -> bool:
        """Discard the chunks so far, to answer again. Returns False if some have been read."""
        with self._lock:
            if self.read or self._listener:
                return False
            self._queue = queue.SimpleQueue()
            self._left = self.n
            return True

    def listen(self, listener: "Listener") -> None:
        """Call `listener` with each chunk or failure, in the engine's thread, instead of queueing them."""
        with self._lock:
            while not self._queue.empty():
                listener(self._queue.get()[1])
            self._listener = listener

    def _pass_on(self, item: Chunk | Exception, made_ns: int = 0) -> None:
        with self._lock:
            if self._listener:
                self._listener(item)
            else:
                self._queue.put((made_ns or time.time_ns(), item))

    def is_last(self, chunk: Chunk) -> bool:
        """Return whether all answers have ended after this chunk."""
        return self._left <= (chunk.finish_reason is not None)

    @property
    def is_over(self) -> bool:
        """Whether all answers have ended."""
        return not self._left or self._ended.is_set()

    def cancel(self) -> None:
        """Ask the engine to stop; a last chunk with finish reason `cancelled` follows."""
        self.cancelled = True
        if self.on_cancel:
            self.on_cancel()

    def __iter__(self) -> Iterator[Chunk]:
        return (chunk for _, chunk in self.timed_chunks())

    def timed_chunks(self) -> Iterator[tuple[float, Chunk]]:
        """Yield the chunks, each with the seconds from `submit` until it was generated."""
        unfinished = self.n
        self.read = True
        while unfinished:
            made_ns, item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            unfinished -= item.finish_reason is not None
            yield max(0, made_ns - self.started_ns) / 1e9, item

    def result(self) -> Completion:
        """Wait for the complete answer; the first one if there are several."""
        return self.results()[0]

    def results(self) -> list[Completion]:
        """Wait for all `n` answers. Blocks without polling, so many callers may wait."""
        self._ended.wait()
        arrived: list[list[tuple[float, Chunk]]] = [[] for _ in range(self.n)]
        for moment, chunk in self.timed_chunks():
            arrived[chunk.index].append((moment, chunk))
        return [self._join(parts) for parts in arrived]

    def _join(self, parts: list[tuple[float, Chunk]]) -> Completion:
        chunks = [chunk for _, chunk in parts]
        token_ids = tuple(token for chunk in chunks for token in chunk.token_ids)
        reason = chunks[-1].finish_reason
        if reason is None:  # an engine that ends a stream without a reason has a defect
            raise FledgeError("the engine ended an answer without a finish reason")
        return Completion(
            text="".join(chunk.text for chunk in chunks),
            token_ids=token_ids,
            finish_reason=reason,
            usage=chunks[-1].usage or Usage(self.prompt_tokens, len(token_ids)),
            started_ns=self.started_ns,
            ttft_s=parts[0][0],
            seconds=parts[-1][0],
            logprobs=tuple(value for chunk in chunks for value in chunk.logprobs),
            turns_left_out=self.turns_left_out,
        )
