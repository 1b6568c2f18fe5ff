"""A conversation: its turns, system text and prompt, and the messages to send. Pure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from fledge.core.errors import InputError
from fledge.core.types import Message, Role
from fledge.prompts.prompt import Prompt


@dataclass(frozen=True)
class Turn:
    """One turn of a session. `conversation` counts from 1 and increases with each reset.

    A question has the label of the `prompt` it was filled into, by the session or the release; an answer has its
    `request_id` if the partner gave one, its `finish_reason` and its duration in seconds.
    """

    role: Role
    content: str
    conversation: int
    prompt: str | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    seconds: float | None = None
    turns_left_out: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Reply(NamedTuple):
    """An answer; `prompt` is the label of the release's own prompt, if the question was filled into it."""

    text: str
    finish_reason: str
    request_id: str
    seconds: float
    prompt: str = ""
    turns_left_out: int = 0


class Dialogue:
    """The turns of a session; `log` includes those before a reset."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.prompt: Prompt | None = None
        self.log: list[Turn] = []
        self._number = 1

    def use(self, prompt: Prompt | None) -> None:
        """Fill the next questions into `prompt`; None sends them unchanged.

        Raises `InputError` for a prompt that has not exactly one variable, or does not end with a turn of the user.
        """
        if prompt is not None:
            if len(prompt.variables) != 1:
                raise InputError(
                    f"prompt {prompt.label} has the variables {', '.join(prompt.variables)}; "
                    "a session fills in only the question",
                    hint="/prompt simple, or one of your own with one variable",
                )
            if not isinstance(prompt.template, str) and prompt.template[-1].role != "user":
                raise InputError(
                    f"prompt {prompt.label} ends with a turn of the {prompt.template[-1].role}, not of the user",
                    hint="/prompt simple, or one of your own that ends with a turn of the user",
                )
        self.prompt = prompt

    def messages(self, question: str) -> list[Message]:
        """Return the messages to send: system text, first turns of the prompt, conversation, question.

        A system text of the prompt replaces the session's.
        """
        head = [Message("system", self.system)] if self.system else []
        last = Message("user", question)
        if self.prompt is not None:
            filled = self.prompt.fill({self.prompt.variables[0]: question})
            turns = [Message("user", filled)] if isinstance(filled, str) else list(filled)
            first, last = turns[:-1], turns[-1]
            head = first if any(turn.role == "system" for turn in first) else head + first
        history = [Message(turn.role, turn.content) for turn in self.turns if turn.role != "system"]
        return [*head, *history, last]

    def keep(self, sent: Sequence[Message], answer: Reply) -> None:
        """Add a question, as it was sent, and its answer."""
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
                turns_left_out=answer.turns_left_out,
            )
        )

    def reset(self) -> None:
        """Start a new conversation; keep system text and prompt."""
        self._number += 1

    @property
    def turns(self) -> list[Turn]:
        """The turns of the current conversation."""
        return [turn for turn in self.log if turn.conversation == self._number]

    @property
    def last_answer(self) -> Turn | None:
        return next((turn for turn in reversed(self.log) if turn.role == "assistant"), None)


def as_jsonl(turns: Sequence[Turn]) -> str:
    """Return one message of OpenAI's protocol per line."""
    return "".join(
        json.dumps({"role": turn.role, "content": turn.content}, ensure_ascii=False) + "\n" for turn in turns
    )


def as_markdown(title: str, turns: Sequence[Turn]) -> str:
    """Return a page with a heading for each turn."""
    parts = [f"# {title}\n"]
    for turn in turns:
        prompt = f" ({turn.prompt})" if turn.prompt else ""
        parts.append(f"\n### {turn.role}{prompt}\n\n{turn.content.strip()}\n")
    return "".join(parts)
