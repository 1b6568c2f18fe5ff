"""The partner of a session: its protocol, and a local engine as one."""

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

    `turns_left_out` counts the oldest turns that did not fit into the context window. It is set in one part only, as
    are `request_id` and `prompt`, the label of the partner's own prompt if the question was filled into it.
    """

    text: str = ""
    finish_reason: str = ""
    request_id: str = ""
    turns_left_out: int = 0
    prompt: str = ""


class Partner(Protocol):
    """Answers conversations; `description` is shown to the user."""

    description: str

    def ask(
        self, messages: Sequence[Message], settings: Mapping[str, Any], *, plain: bool = False
    ) -> Generator[AnswerPart]:
        """Yield an answer in parts; closing the generator cancels it. `settings` are fields of `GenerationParams`.

        A release fills the question into its own prompt unless `plain`. Raises `FledgeError`, also between parts.
        """
        ...

    def feedback(self, request_id: str, value: bool, comment: str) -> None:
        """Record feedback on an answer. Raises `FledgeError` if it is refused."""
        ...

    def close(self) -> None: ...


class EnginePartner:
    """A local engine, which `close` closes; `prompt` is the own prompt of a release."""

    def __init__(self, engine: Engine, name: str, prompt: Prompt | None = None) -> None:
        self.description = f"{name} on {engine.info.name} ({engine.info.device})"
        self._engine = engine
        self._prompt = prompt

    def ask(
        self, messages: Sequence[Message], settings: Mapping[str, Any], *, plain: bool = False
    ) -> Generator[AnswerPart]:
        filled = None if plain or self._prompt is None else self._fill(self._prompt, messages)
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

    def _fill(self, prompt: Prompt, messages: Sequence[Message]) -> Template | None:
        try:
            return fill_conversation(prompt, messages, {})
        except InputError as error:
            raise InputError(error.message, hint="/prompt to send questions unchanged") from None

    def feedback(self, request_id: str, value: bool, comment: str) -> None:  # noqa: ARG002 (the protocol's)
        raise InputError("feedback needs a fledge endpoint: a local model records nothing", hint=NO_FEEDBACK_HINT)

    def close(self) -> None:
        self._engine.close()
