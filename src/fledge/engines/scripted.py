"""An engine that answers from a function: for dry runs and tests."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from fledge.core.errors import InputError
from fledge.core.types import EngineInfo, Message
from fledge.engines.engine import Chunk, FinishReason, GenerationParams, Prompt, Stats, Stream, Usage

if TYPE_CHECKING:
    from fledge.engines.prompt_encoder import PromptEncoder


def _nothing() -> None:
    """No turn of ours takes more than a step."""


def echo(prompt: str) -> str:
    """The default script: the last line of the prompt, upper case."""
    return (prompt.strip().splitlines() or [""])[-1].upper()


class ScriptedEngine:
    """Answers each prompt with `script(prompt)`, one word a chunk; words count as tokens.

    In a program of its own it answers at once; in an engine process a word of each answer a step, which takes `step_s`
    seconds of the processor, as those of other engines do.
    """

    info = EngineInfo("scripted", "cpu", "exact", "as set")
    encoder: "PromptEncoder | None" = None

    def __init__(self, script: Callable[[str], str] = echo, step_s: float = 0.0) -> None:
        self.between_steps: Callable[[], None] = _nothing
        self._script = script
        self._step_s = step_s
        self._generated_tokens = 0
        self._running: list[tuple[Stream, Iterator[Chunk]]] = []

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        stream = Stream(n=params.n)
        for index in range(params.n):
            for chunk in self._chunks(prompt, params, stream, index):
                self._generated_tokens += len(chunk.token_ids)
                stream.put(chunk)
        return stream

    def take(self, prompt: Prompt, params: GenerationParams, stream: Stream) -> None:
        try:
            self._running += [(stream, self._chunks(prompt, params, stream, index)) for index in range(params.n)]
        except InputError as error:
            stream.fail(error)

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def turn(self) -> None:
        end = time.perf_counter() + self._step_s
        while time.perf_counter() < end:
            sum(range(100_000))  # holds Python's lock
        going = []
        for stream, chunks in self._running:
            chunk = next(chunks)
            if stream.cancelled and not chunk.finish_reason:
                chunk = replace(chunk, finish_reason="cancelled")
            stream.put(chunk)
            if not chunk.finish_reason:
                going.append((stream, chunks))
        self._running = going

    def _chunks(self, prompt: Prompt, params: GenerationParams, stream: Stream, index: int) -> Iterator[Chunk]:
        """The words of an answer. Raises `InputError` at once for an empty prompt."""
        if not prompt:
            raise InputError("the prompt is empty")
        text = prompt if isinstance(prompt, str) else "\n".join(_content(part) for part in prompt)
        answer = self._script(text)
        cut = min((answer.index(stop) for stop in params.stop if stop in answer), default=len(answer))
        words = answer[:cut].split(" ")
        stream.prompt_tokens = len(text.split())
        return _spoken(words, params, stream.prompt_tokens, index)

    def stats(self) -> Stats:
        return Stats(0, self._generated_tokens)

    def close(self) -> None:
        """Nothing to free."""


def _spoken(words: list[str], params: GenerationParams, prompt_tokens: int, index: int) -> Iterator[Chunk]:
    kept = words[: params.max_tokens]
    logprobs = (0.0,) if params.logprobs else ()
    for number, word in enumerate(kept):
        tokens = (word,) if params.logprobs else ()
        if number < len(kept) - 1:
            yield Chunk(word + " ", (number,), None, logprobs, index, tokens=tokens)
            continue
        reason: FinishReason = "stop" if len(words) == len(kept) else "length"
        yield Chunk(word, (number,), reason, logprobs, index, Usage(prompt_tokens, len(kept)), tokens)


def _content(part: Message | int) -> str:
    return part.content if isinstance(part, Message) else str(part)
