"""The interface of engines: prompts in, streams of tokens out."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import ENGINE_SETTINGS, GenerationParams
from fledge.core.types import EngineInfo, Message
from fledge.engines.stream import Completion, Stream

if TYPE_CHECKING:
    from fledge.engines.guarded_child import GuardedChild

PromptInput = str | Sequence[Message] | Sequence[int]
"""Text to complete, a conversation to answer, or token ids, which are used unchanged."""


class Stats(NamedTuple):
    """The number of prompts in progress, and of tokens generated so far."""

    running: int
    generated_tokens: int


class Engine(Protocol):
    """Turns prompts into text. `submit` may be called from any thread and never waits for other requests."""

    info: EngineInfo

    def submit(self, prompt: PromptInput, params: GenerationParams) -> Stream:
        """Start an answer. An invalid prompt fails the stream, or this call, with `InputError`."""
        ...

    def stats(self) -> Stats: ...

    def close(self) -> None:
        """Cancel running answers and free the model."""
        ...


class StartingEngine(Engine, Protocol):
    """An engine that may still be loading: `info` and `submit` work after `wait_ready`."""

    def wait_ready(self) -> None:
        """Wait until the engine is ready. If it fails to start, closes it and raises `FledgeError`."""
        ...


class LoadedEngine(Protocol):
    """An engine inside the engine process, which calls `turn` while it is `busy` and polls its `children`.

    A turn of many steps calls `between_steps` after each.
    """

    info: EngineInfo
    between_steps: Callable[[], None]

    @property
    def children(self) -> "Sequence[GuardedChild]": ...

    @property
    def busy(self) -> bool: ...

    def take(self, prompt: PromptInput, params: GenerationParams, stream: Stream) -> None:
        """Start an answer on `stream`. An invalid prompt fails the stream with `InputError`."""
        ...

    def turn(self) -> None: ...


class EngineGoneError(FledgeError):
    """The engine process is not running."""


def refuse_unsupported(engine: str, supported: Sequence[str], params: GenerationParams) -> None:
    """Raise `InputError` for a setting of `ENGINE_SETTINGS` that the engine does not support."""
    for name in ENGINE_SETTINGS:
        if getattr(params, name) and name not in supported:
            raise InputError(f"the engine {engine} does not support {name}", hint=f"leave out {name}")


def generate(engine: Engine, prompts: Sequence[PromptInput], params: GenerationParams) -> list[Completion]:
    """Return the answers to all prompts, in their order; each has its own seed, as samples have.

    Raises `InputError`, with the row if there are several.
    """
    streams: list[Stream] = []
    number = 0
    try:
        for number, prompt in enumerate(prompts):
            streams.append(engine.submit(prompt, params.for_sample(number)))
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
