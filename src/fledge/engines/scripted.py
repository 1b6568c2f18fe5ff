"""An engine that answers from a function: for dry runs and tests."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from fledge.core.errors import InputError, StructureError
from fledge.core.generation import GenerationParams
from fledge.core.types import EngineInfo, Message
from fledge.engines.engine import PromptInput, Stats
from fledge.engines.guarded_child import GuardedChild
from fledge.engines.stream import Chunk, FinishReason, Stream, Usage


def _do_nothing() -> None:
    """Do nothing: each turn is one step."""


def echo(prompt: str) -> str:
    """Return the last line of the prompt in upper case; the default script."""
    return (prompt.strip().splitlines() or [""])[-1].upper()


class ScriptedEngine:
    """Answers each prompt with `script(prompt)`, one word per chunk; words count as tokens.

    `submit` answers immediately. In an engine process, a step produces a word of each answer and takes `step_s`
    seconds of CPU time, as in other engines.
    """

    info = EngineInfo("scripted", "cpu", "exact", "as set")
    children: Sequence[GuardedChild] = ()

    def __init__(self, script: Callable[[str], str] = echo, step_s: float = 0.0) -> None:
        self.between_steps: Callable[[], None] = _do_nothing
        self._script = script
        self._step_s = step_s
        self._generated_tokens = 0
        self._running: list[tuple[Stream, Iterator[Chunk]]] = []

    def submit(self, prompt: PromptInput, params: GenerationParams) -> Stream:
        stream = Stream(n=params.n)
        for index in range(params.n):
            for chunk in self._answer(prompt, params, stream, index):
                self._generated_tokens += len(chunk.token_ids)
                stream.put(chunk)
        return stream

    def take(self, prompt: PromptInput, params: GenerationParams, stream: Stream) -> None:
        try:
            self._running += [(stream, self._answer(prompt, params, stream, index)) for index in range(params.n)]
        except InputError as error:
            stream.fail(error)

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def turn(self) -> None:
        end = time.perf_counter() + self._step_s
        while time.perf_counter() < end:
            sum(range(100_000))  # holds the GIL
        unfinished = []
        for stream, chunks in self._running:
            chunk = next(chunks)
            if stream.cancelled and not chunk.finish_reason:
                chunk = replace(chunk, finish_reason="cancelled")
            stream.put(chunk)
            if not chunk.finish_reason:
                unfinished.append((stream, chunks))
        self._running = unfinished

    def _answer(self, prompt: PromptInput, params: GenerationParams, stream: Stream, index: int) -> Iterator[Chunk]:
        """Return the chunks of an answer. Raises `InputError` for an empty prompt."""
        if not prompt:
            raise InputError("the prompt is empty")
        if params.grammar:
            raise StructureError("the engine scripted cannot enforce a grammar", hint="--engine openvino")
        text = prompt if isinstance(prompt, str) else "\n".join(_text_of(part) for part in prompt)
        answer = self._script(text)
        cut = min((answer.index(stop) for stop in params.stop if stop in answer), default=len(answer))
        words = answer[:cut].split(" ")
        stream.prompt_tokens = len(text.split())
        return _make_chunks(words, params, stream.prompt_tokens, index)

    def stats(self) -> Stats:
        return Stats(0, self._generated_tokens)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def _make_chunks(words: list[str], params: GenerationParams, prompt_tokens: int, index: int) -> Iterator[Chunk]:
    kept = words[: params.max_tokens]
    logprobs = (0.0,) if params.logprobs else ()
    for number, word in enumerate(kept):
        tokens = (word.encode(),) if params.logprobs else ()
        if number < len(kept) - 1:
            yield Chunk(word + " ", (number,), None, logprobs, index, tokens=tokens)
            continue
        reason: FinishReason = "stop" if len(words) == len(kept) else "length"
        yield Chunk(word, (number,), reason, logprobs, index, Usage(prompt_tokens, len(kept)), tokens)


def _text_of(part: Message | int) -> str:
    return part.content if isinstance(part, Message) else str(part)
