"""What every engine is: prompts in, streams of tokens out."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import option
from fledge.core.types import EngineInfo, Message

if TYPE_CHECKING:
    from fledge.engines.prompt_encoder import PromptEncoder

FinishReason = Literal["stop", "length", "cancelled"]

LEAST_TEMPERATURE = 1e-3
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 100


@dataclass(frozen=True)
class GenerationParams:
    """How to generate. `temperature` 0, or next to it, is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 do not filter.

    `n` answers are given to one prompt, with the seeds `seed`, `seed + 1` and so on. With `logprobs` each token comes
    with the natural logarithm of its probability. With `ignore_eos` an answer goes on to `max_tokens`.
    """

    GROUP: ClassVar = "Generation"

    max_tokens: int = option(128, "maximum number of new tokens (1 to 4096)", group="")
    temperature: float = option(0.0, "0 is greedy; up to 2")
    top_p: float = option(1.0, "nucleus sampling: total probability of the tokens to sample from")
    top_k: int = option(0, "sample from this many likeliest tokens; 0 for all")
    min_p: float = option(0.0, "sample from tokens at least this likely, relative to the likeliest")
    repetition_penalty: float = option(1.0, "above 1 discourages repetition (0.1 to 10)")
    seed: int = option(0, "sampling seed")
    stop: tuple[str, ...] = option((), "up to four stop sequences; not returned", strip=False)
    n: int = 1
    logprobs: bool = False
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        bounds: list[tuple[str, float, float, float]] = [
            ("max_tokens", self.max_tokens, 1, 4096),
            ("temperature", self.temperature, 0, 2),
            ("top_p", self.top_p, 1e-6, 1),
            ("top_k", self.top_k, 0, 1_000_000),
            ("min_p", self.min_p, 0, 0.999),
            ("repetition_penalty", self.repetition_penalty, 0.1, 10),
            ("seed", self.seed, 0, 2**63 - 1),
            ("n", self.n, 1, 16),
        ]
        whole = ("max_tokens", "top_k", "seed", "n")
        problems = []
        for name, value, low, high in bounds:
            if isinstance(value, bool) or not isinstance(value, int if name in whole else (int, float)):
                problems.append(f"{name} must be {'a whole number' if name in whole else 'a number'}, not {value!r}")
            elif not low <= value <= high:
                problems.append(f"{name} must be from {low:g} to {high:g}, not {value:g}")
        if len(self.stop) > MAX_STOPS or any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            problems.append(f"stop takes up to {MAX_STOPS} sequences of 1 to {MAX_STOP_CHARACTERS} characters")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; below `LEAST_TEMPERATURE` probabilities leave the range of their numbers."""
        return self.temperature >= LEAST_TEMPERATURE

    def for_sample(self, index: int) -> "GenerationParams":
        """The same for one of several samples: each has a seed of its own."""
        return replace(self, seed=(self.seed + index) % 2**63)


def _nothing() -> None:
    """Nobody has to be told."""


Listener = Callable[["Chunk | Exception"], None]
Prompt = str | Sequence[Message] | Sequence[int]
"""Text to complete, a conversation to answer, or token ids as they are."""


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
    on_cancel: Callable[[], None] = _nothing
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


class Stats(NamedTuple):
    """What an engine is doing and has done: prompts under way, tokens generated so far."""

    running: int
    generated_tokens: int


class Engine(Protocol):
    """Turns prompts into text. `submit` may be called from any thread and never waits for other requests."""

    info: EngineInfo

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        """Start an answer. A prompt that the model cannot take fails the stream, or this call, with `InputError`."""
        ...

    def stats(self) -> Stats: ...

    def close(self) -> None:
        """Cancel what runs and free the model."""
        ...


class StartingEngine(Engine, Protocol):
    """An engine that may still be loading: it has `info` and can be asked after `wait_ready`."""

    def wait_ready(self) -> None:
        """Wait until it can be asked. Raises `FledgeError` where it cannot, and closes it."""
        ...


class LoadedEngine(Protocol):
    """An engine in its own process, which calls `turn` as long as it is `busy`. `encoder`, where there is one, has a
    line to watch; `between_steps` is called where a turn takes many steps."""

    info: EngineInfo
    between_steps: Callable[[], None]

    @property
    def encoder(self) -> "PromptEncoder | None": ...

    @property
    def busy(self) -> bool: ...

    def take(self, prompt: Prompt, params: GenerationParams, stream: Stream) -> None:
        """Have a prompt answered. One that the model cannot take fails the stream with `InputError`."""
        ...

    def turn(self) -> None: ...


class EngineGoneError(FledgeError):
    """The engine process is not there (any more)."""


def generate(engine: Engine, prompts: Sequence[Prompt], params: GenerationParams) -> list[Completion]:
    """Answers to all prompts, in their order, computed together. An `InputError` says which of several is wrong."""
    streams: list[Stream] = []
    number = 0
    try:
        for number, prompt in enumerate(prompts):  # noqa: B007 (told in an error)
            streams.append(engine.submit(prompt, params))
        completions = []
        for number, stream in enumerate(streams):  # noqa: B007
            completions.append(stream.result())
    except BaseException as error:
        for stream in streams:
            stream.cancel()
        if isinstance(error, InputError) and len(prompts) > 1:
            raise InputError(f"row {number}: {error.message}", error.hint) from None
        raise
    return completions
