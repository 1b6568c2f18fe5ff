"""An engine that answers from a function: for dry runs and tests."""

from collections.abc import Callable

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.engines.engine import (
    Chunk,
    EngineInfo,
    FinishReason,
    GenerationParams,
    Prompt,
    Stats,
    Stream,
    Usage,
)


def echo(prompt: str) -> str:
    """The default script: the last line of the prompt, upper case."""
    return (prompt.strip().splitlines() or [""])[-1].upper()


class ScriptedEngine:
    """Answers each prompt with `script(prompt)`, one word a chunk; words count as tokens."""

    info = EngineInfo("scripted", "cpu", "exact", "as set")

    def __init__(self, script: Callable[[str], str] = echo) -> None:
        self._script = script
        self._prompt_tokens = self._generated_tokens = 0

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        text = prompt if isinstance(prompt, str) else "\n".join(_content(part) for part in prompt)
        if not prompt:
            raise InputError("the prompt is empty")
        answer = self._script(text)
        cut = min((answer.index(stop) for stop in params.stop if stop in answer), default=len(answer))
        words = answer[:cut].split(" ")
        stream = Stream(len(text.split()), params.n)
        self._prompt_tokens += stream.prompt_tokens
        for index in range(params.n):
            self._put(stream, words, index, params)
        return stream

    def _put(self, stream: Stream, words: list[str], index: int, params: GenerationParams) -> None:
        kept = words[: params.max_tokens]
        self._generated_tokens += len(kept)
        logprobs = (0.0,) if params.logprobs else ()
        for number, word in enumerate(kept):
            if number < len(kept) - 1:
                stream.put(Chunk(word + " ", (number,), None, logprobs, index))
                continue
            reason: FinishReason = "stop" if len(words) == len(kept) else "length"
            usage = Usage(stream.prompt_tokens, len(kept))
            stream.put(Chunk(word, (number,), reason, logprobs, index, usage))

    def stats(self) -> Stats:
        return Stats(0, 0, self._prompt_tokens, self._generated_tokens)

    def drain(self, timeout_s: float) -> bool:  # noqa: ARG002 (the protocol's)
        """True: an answer is whole when `submit` returns."""
        return True

    def close(self) -> None:
        """Nothing to free."""


def _content(part: Message | int) -> str:
    return part.content if isinstance(part, Message) else str(part)
