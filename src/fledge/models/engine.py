"""What every engine is: prompts in, streams of tokens out."""

import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fledge.core.errors import FledgeError
from fledge.core.settings import option

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class GenerationParams:
    """How to generate. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 do not filter."""

    max_tokens: int = option(128, "most new tokens of an answer (1 to 4096)")
    temperature: float = option(0.0, "0 is greedy; up to 2")
    top_p: float = option(1.0, "sample from the likeliest tokens of this total probability")
    top_k: int = option(0, "sample from this many likeliest tokens; 0 for all")
    repetition_penalty: float = option(1.0, "above 1 discourages repetition (0.1 to 10)")
    seed: int = option(0, "seed of sampling")
    stop: tuple[str, ...] = option((), "up to four texts that end an answer; not returned")

    def __post_init__(self) -> None:
        bounds: list[tuple[str, float, float, float]] = [
            ("max_tokens", self.max_tokens, 1, 4096),
            ("temperature", self.temperature, 0, 2),
            ("top_p", self.top_p, 1e-6, 1),
            ("top_k", self.top_k, 0, 1_000_000),
            ("repetition_penalty", self.repetition_penalty, 0.1, 10),
            ("seed", self.seed, 0, 2**63 - 1),
        ]
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, not {value:g}")
        if len(self.stop) > 4 or any(not text or len(text) > 100 for text in self.stop):
            raise ValueError("stop takes up to four texts of 1 to 100 characters")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Chunk:
    """The next tokens of an answer, and their text as far as it is certain; the last one has a `finish_reason`."""

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Completion:
    """A whole answer. Times are in seconds; `started_ns` is nanoseconds since the epoch."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    started_ns: int
    ttft_s: float
    seconds: float

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


@dataclass
class Stream:
    """The answer to one submitted prompt: iterate for chunks, or call `result` for the whole.

    An engine calls `put` for each chunk and `fail` once if the answer breaks off.
    """

    prompt_tokens: int
    started_ns: int = field(default_factory=time.time_ns)
    cancelled: bool = False
    _started: float = field(default_factory=time.perf_counter)
    _queue: "queue.SimpleQueue[tuple[float, Chunk | Exception]]" = field(default_factory=queue.SimpleQueue)
    _times: list[float] = field(default_factory=list)

    def put(self, chunk: Chunk) -> None:
        self._queue.put((time.perf_counter(), chunk))

    def fail(self, error: Exception) -> None:
        self._queue.put((time.perf_counter(), error))

    def cancel(self) -> None:
        """Ask the engine to stop; a last chunk with finish reason `cancelled` follows."""
        self.cancelled = True

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            moment, item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            self._times.append(moment - self._started)
            yield item
            if item.finish_reason:
                return

    def result(self) -> Completion:
        """Wait for the whole answer."""
        chunks = list(self)
        reason = chunks[-1].finish_reason
        if reason is None:  # an engine that ends a stream without a reason has a defect
            raise FledgeError("the engine ended an answer without a finish reason")
        return Completion(
            text="".join(chunk.text for chunk in chunks),
            token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
            finish_reason=reason,
            prompt_tokens=self.prompt_tokens,
            started_ns=self.started_ns,
            ttft_s=self._times[0],
            seconds=self._times[-1],
        )


class Engine(Protocol):
    """Turns prompts into text. `submit` may be called from any thread and never waits for other requests."""

    name: str

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        """Start an answer. Raises `InputError` for a prompt that the model cannot take."""
        ...

    def close(self) -> None:
        """Cancel what runs and free the model."""
        ...


def generate(engine: Engine, prompts: Sequence[Prompt], params: GenerationParams) -> list[Completion]:
    """Answers to all prompts, in their order, computed together."""
    streams: list[Stream] = []
    try:
        streams.extend(engine.submit(prompt, params) for prompt in prompts)
        return [stream.result() for stream in streams]
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
