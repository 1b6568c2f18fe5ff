"""An engine that answers from a function: for dry runs and tests."""

from collections.abc import Callable

from fledge.models.engine import Chunk, FinishReason, GenerationParams, Prompt, Stream


def echo(prompt: str) -> str:
    """The default script: the last line of the prompt, upper case."""
    return prompt.strip().splitlines()[-1].upper()


class ScriptedEngine:
    """Answers each prompt with `script(prompt)`, one word a chunk; words count as tokens."""

    name = "scripted"

    def __init__(self, script: Callable[[str], str] = echo) -> None:
        self._script = script

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        text = prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
        words = self._script(text).split(" ")
        stream = Stream(prompt_tokens=len(text.split()))
        kept = words[: params.max_tokens]
        for number, word in enumerate(kept):
            last = number == len(kept) - 1
            reason: FinishReason | None = None
            if last:
                reason = "stop" if len(words) == len(kept) else "length"
            stream.put(Chunk(word if last else word + " ", (number,), reason))
        return stream

    def close(self) -> None:
        """Nothing to free."""
