"""The answers to one prompt as they come, and as wholes."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from fledge.core.errors import FledgeError

FinishReason = Literal["stop", "length", "cancelled"]
Listener = Callable[["Chunk | Exception"], None]


@dataclass(frozen=True)
class Usage:
    """What an answer took; `cost` is in the currency of the prices given, 0 where none are."""

    prompt_tokens: int
    completion_tokens: int
    cost: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """The next tokens of an answer, and their text as far as it is certain; the last one has a `finish_reason`.

    `index` tells the `n` answers to one prompt apart. `logprobs`, where asked for, has one value for each token, and
    `tokens` their texts. `usage` comes with the last chunk. `made_ns` is when its last token was there, in nanoseconds
    since the epoch; 0 for the moment in which it arrives.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] = ()
    index: int = 0
    usage: Usage | None = None
    tokens: tuple[str, ...] = ()
    made_ns: int = 0


@dataclass(frozen=True)
class Completion:
    """A whole answer. Times are in seconds; `started_ns` is nanoseconds since the epoch.

    `turns_left_out` counts the oldest turns of a conversation that the model's window had no room for.
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
    """The answers to one submitted prompt: iterate for chunks, call `result` for the whole, or `listen`.

    An engine calls `put` for each chunk and `fail` once if the answer breaks off. `prompt_tokens` and `turns_left_out`
    are known when the first chunk is there.
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
        self._hand_over(chunk, chunk.made_ns)
        if not self._left:
            self._ended.set()

    def fail(self, error: Exception) -> None:
        self.cancelled = True  # the other answers to this prompt have nobody to wait for them
        self._hand_over(error)
        self._ended.set()

    def restart(self) -> bool:
        """Forget the chunks so far, to be answered anew; False where somebody has read some of them already."""
        with self._lock:
            if self.read or self._listener:
                return False
            self._queue = queue.SimpleQueue()
            self._left = self.n
            return True

    def listen(self, listener: "Listener") -> None:
        """Have each chunk, and a failure, passed to `listener` in the thread that makes it, instead of iterating."""
        with self._lock:
            while not self._queue.empty():
                listener(self._queue.get()[1])
            self._listener = listener

    def _hand_over(self, item: Chunk | Exception, made_ns: int = 0) -> None:
        with self._lock:
            if self._listener:
                self._listener(item)
            else:
                self._queue.put((made_ns or time.time_ns(), item))

    def is_last(self, chunk: Chunk) -> bool:
        """Whether all answers have ended once this chunk is put."""
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
        return (chunk for _, chunk in self.timed())

    def timed(self) -> Iterator[tuple[float, Chunk]]:
        """Chunks, each with the seconds from `submit` to when it was made."""
        under_way = self.n
        self.read = True
        while under_way:
            made_ns, item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            under_way -= item.finish_reason is not None
            yield max(0, made_ns - self.started_ns) / 1e9, item

    def result(self) -> Completion:
        """Wait for the whole answer, the first one where there are several."""
        return self.results()[0]

    def results(self) -> list[Completion]:
        """Wait for all `n` answers. Blocks without polling, so many callers may wait."""
        self._ended.wait()
        arrived: list[list[tuple[float, Chunk]]] = [[] for _ in range(self.n)]
        for moment, chunk in self.timed():
            arrived[chunk.index].append((moment, chunk))
        return [self._whole(parts) for parts in arrived]

    def _whole(self, parts: list[tuple[float, Chunk]]) -> Completion:
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
