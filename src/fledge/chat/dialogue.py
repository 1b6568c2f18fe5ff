"""What has been said: turns, system text and prompt, and what of them a model is sent. Pure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from fledge.core.errors import InputError
from fledge.core.types import Message, Role
from fledge.prompts.prompt import Prompt


@dataclass(frozen=True)
class Turn:
    """One turn of a session. `conversation` counts from 1 and rises when the conversation is forgotten.

    A question has the label of the `prompt` that it was filled into, here or by the release; an answer its
    `request_id`, where the partner gave one, why it ended, and how long it took in seconds.
    """

    role: Role
    content: str
    conversation: int
    prompt: str | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Reply(NamedTuple):
    """What came of a question; `prompt` is that of the release that answered, where it was filled into it."""

    text: str
    finish_reason: str
    request_id: str
    seconds: float
    prompt: str = ""


class Dialogue:
    """The turns of a session. `log` holds all of them, also of conversations that were forgotten."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.prompt: Prompt | None = None
        self.log: list[Turn] = []
        self._number = 1

    def use(self, prompt: Prompt | None) -> None:
        """Fill the questions to come into a prompt, or into none.

        Raises `InputError` for a prompt that a question alone does not fill, or that is no question.
        """
        if prompt is not None:
            if len(prompt.variables) != 1:
                raise InputError(
                    f"prompt {prompt.label} has the variables {', '.join(prompt.variables)}; "
                    "a session fills in one, the question",
                    hint="/prompt simple, or one of your own with one variable",
                )
            if not isinstance(prompt.template, str) and prompt.template[-1].role != "user":
                raise InputError(
                    f"prompt {prompt.label} ends with a turn of the {prompt.template[-1].role}, not with a question",
                    hint="/prompt simple, or one of your own that ends with a turn of the user",
                )
        self.prompt = prompt

    def messages(self, question: str) -> list[Message]:
        """What is to be sent for a question: system text, what the prompt puts first, the conversation, the question.

        A prompt's own system text stands in place of the session's.
        """
        opening = [Message("system", self.system)] if self.system else []
        asked = Message("user", question)
        if self.prompt is not None:
            filled = self.prompt.fill({self.prompt.variables[0]: question})
            turns = [Message("user", filled)] if isinstance(filled, str) else list(filled)
            first, asked = turns[:-1], turns[-1]
            opening = first if any(turn.role == "system" for turn in first) else opening + first
        history = [Message(turn.role, turn.content) for turn in self.turns if turn.role != "system"]
        return [*opening, *history, asked]

    def keep(self, sent: Sequence[Message], answer: Reply) -> None:
        """Remember a question as it was sent, and its answer."""
        system = "\n".join(message.content for message in sent if message.role == "system")
        known = next((turn.content for turn in reversed(self.turns) if turn.role == "system"), "")
        if system != known:
            self.log.append(Turn("system", system, self._number))
        label = self.prompt.label if self.prompt else answer.prompt or None
        self.log.append(Turn("user", sent[-1].content, self._number, prompt=label))
        self.log.append(
            Turn(
                "assistant",
                answer.text,
                self._number,
                request_id=answer.request_id or None,
                finish_reason=answer.finish_reason,
                seconds=round(answer.seconds, 3),
            )
        )

    def reset(self) -> None:
        """Forget the conversation; system text and prompt stay."""
        self._number += 1

    @property
    def turns(self) -> list[Turn]:
        """The conversation that is remembered."""
        return [turn for turn in self.log if turn.conversation == self._number]

    @property
    def last_answer(self) -> Turn | None:
        return next((turn for turn in reversed(self.log) if turn.role == "assistant"), None)


def as_jsonl(turns: Sequence[Turn]) -> str:
    """A message a line, as OpenAI's protocol has them."""
    return "".join(
        json.dumps({"role": turn.role, "content": turn.content}, ensure_ascii=False) + "\n" for turn in turns
    )


def as_markdown(title: str, turns: Sequence[Turn]) -> str:
    """A page with a heading for each turn."""
    parts = [f"# {title}\n"]
    for turn in turns:
        prompt = f" ({turn.prompt})" if turn.prompt else ""
        parts.append(f"\n### {turn.role}{prompt}\n\n{turn.content.strip()}\n")
    return "".join(parts)
