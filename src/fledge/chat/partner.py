"""Who answers: what a session needs of it, and an engine of this machine."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams, draw_seed
from fledge.core.types import Message
from fledge.engines.engine import Engine
from fledge.prompts.format import fill_conversation
from fledge.prompts.prompt import Prompt
from fledge.prompts.template import Template

NO_FEEDBACK_HINT = "fledge serve NAME@champion --detach, then fledge chat http://127.0.0.1:5001"


class AnswerPart(NamedTuple):
    """The next part of an answer; the last one has a `finish_reason`.

    `turns_left_out` counts the oldest turns that the model's window had no room for. It comes once, and so do a
    `request_id` where the partner gives one, and the label of its own `prompt` where it filled the question into that.
    """

    text: str = ""
    finish_reason: str = ""
    request_id: str = ""
    turns_left_out: int = 0
    prompt: str = ""


class Partner(Protocol):
    """Answers conversations. `description` is for people."""

    description: str

    def ask(
        self, messages: Sequence[Message], settings: Mapping[str, Any], *, plain: bool = False
    ) -> Generator[AnswerPart]:
        """An answer as it comes; closing the generator stops it. `settings` are fields of `GenerationParams`.

        What is a release is asked by its own prompt, unless `plain`.

        Raises `FledgeError`, also on the way, if there is no answer or it breaks off.
        """
        ...

    def feedback(self, request_id: str, value: bool, comment: str) -> None:
        """Record what somebody thinks of an answer. Raises `FledgeError` if it is not taken."""
        ...

    def close(self) -> None: ...


class EnginePartner:
    """An engine of this machine, which is closed with it; `prompt` is that of the release that it runs."""

    def __init__(self, engine: Engine, name: str, prompt: Prompt | None = None) -> None:
        self.description = f"{name} on {engine.info.name} ({engine.info.device})"
        self._engine = engine
        self._prompt = prompt

    def ask(
        self, messages: Sequence[Message], settings: Mapping[str, Any], *, plain: bool = False
    ) -> Generator[AnswerPart]:
        filled = None if plain or self._prompt is None else self._filled(self._prompt, messages)
        asked = messages if filled is None else filled
        stream = self._engine.submit(
            asked if isinstance(asked, str) else list(asked), GenerationParams(**{"seed": draw_seed(), **settings})
        )
        try:
            yield AnswerPart(prompt=self._prompt.label if self._prompt and filled is not None else "")
            left_out = 0
            for chunk in stream:
                new, left_out = stream.turns_left_out - left_out, stream.turns_left_out
                yield AnswerPart(chunk.text, chunk.finish_reason or "", turns_left_out=new)
        finally:
            stream.cancel()

    def _filled(self, prompt: Prompt, messages: Sequence[Message]) -> Template | None:
        try:
            return fill_conversation(prompt, messages, {})
        except InputError as error:
            raise InputError(error.message, hint="/prompt asks the questions as they are") from None

    def feedback(self, request_id: str, value: bool, comment: str) -> None:  # noqa: ARG002 (the protocol's)
        raise InputError("feedback needs a fledge endpoint: nothing is recorded here", hint=NO_FEEDBACK_HINT)

    def close(self) -> None:
        self._engine.close()
