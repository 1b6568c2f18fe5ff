"""The partner of a session: its interface, and a local engine."""

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

    `turns_left_out` is the number of oldest turns that did not fit in the model's window. It is sent once, as are the
    `request_id`, if there is one, and the label of the partner's `prompt`, if it was used.
    """

    text: str = ""
    finish_reason: str = ""
    request_id: str = ""
    turns_left_out: int = 0
    prompt: str = ""


class Partner(Protocol):
    """Answers conversations. `description` is shown to the user."""

    description: str

    def ask(
        self, messages: Sequence[Message], settings: Mapping[str, Any], *, plain: bool = False
    ) -> Generator[AnswerPart]:
        """Yield an answer as it is generated; closing the generator stops it. `settings` are fields of
                `GenerationParams`.

        A release uses its own prompt, unless `plain`.

        Raises `FledgeError`, also during the iteration, if there is no answer or it is incomplete.
        """
        ...

    def feedback(self, request_id: str, value: bool, comment: str) -> None:
        """Record feedback on an answer. Raises `FledgeError` if it is rejected."""
        ...

    def close(self) -> None: ...


class EnginePartner:
    """A local engine, which it closes; `prompt` is that of its release."""

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
