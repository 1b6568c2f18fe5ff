"""What every engine is: prompts in, streams of tokens out."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import EngineInfo, Message
from fledge.engines.stream import Completion, Stream

if TYPE_CHECKING:
    from fledge.engines.prompt_encoder import PromptEncoder

PromptInput = str | Sequence[Message] | Sequence[int]
"""Text to complete, a conversation to answer, or token ids as they are."""


class Stats(NamedTuple):
    """What an engine is doing and has done: prompts under way, tokens generated so far."""

    running: int
    generated_tokens: int


class Engine(Protocol):
    """Turns prompts into text. `submit` may be called from any thread and never waits for other requests."""

    info: EngineInfo

    def submit(self, prompt: PromptInput, params: GenerationParams) -> Stream:
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

    def take(self, prompt: PromptInput, params: GenerationParams, stream: Stream) -> None:
        """Have a prompt answered. One that the model cannot take fails the stream with `InputError`."""
        ...

    def turn(self) -> None: ...


class EngineGoneError(FledgeError):
    """The engine process is not there (any more)."""


def generate(engine: Engine, prompts: Sequence[PromptInput], params: GenerationParams) -> list[Completion]:
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
