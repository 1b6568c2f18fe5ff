"""Conversations: how they are recorded, sent to an engine and filled into the prompt of a release."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fledge.core.errors import InputError
from fledge.core.messages import Ask
from fledge.core.types import Message
from fledge.prompts.format import fill_conversation
from fledge.prompts.prompt import Prompt

Turns = list[tuple[str, str]]
"""Roles and texts of a conversation."""


def as_dicts(turns: Turns) -> list[dict[str, str]]:
    """Return a conversation as it is recorded."""
    return [{"role": role, "content": content} for role, content in turns]


def as_text(asked: str | Turns) -> str:
    """Return a prompt or a conversation as people read it."""
    return asked if isinstance(asked, str) else "\n".join(f"{role}: {content}" for role, content in asked)


def make_ask(asked: str | Turns, params: dict[str, Any], *, stream: bool) -> Ask:
    """Return the message to an engine for a text or a conversation."""
    return Ask("", params, **({"text": asked} if isinstance(asked, str) else {"messages": asked}), stream=stream)


def fill_prompt(prompt: Prompt, turns: Turns, values: Mapping[str, str] = MappingProxyType({})) -> str | Turns | None:
    """Fill the prompt of a release with a conversation. Returns None where the conversation has no user's turn.

    Raises `InputError` where variables of the prompt are missing.
    """
    try:
        asked = fill_conversation(prompt, [Message(*turn) for turn in turns], values)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{error.message}: {error.hint}") from None
    return asked if isinstance(asked, str) or asked is None else [(turn.role, turn.content) for turn in asked]
