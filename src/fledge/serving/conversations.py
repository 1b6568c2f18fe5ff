"""Conversations: recorded form, message to an engine, and filling the prompt of a release."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from fledge.core.errors import InputError
from fledge.core.generation import derive_seed
from fledge.core.messages import Ask
from fledge.core.types import Message
from fledge.prompts.format import fill_conversation
from fledge.prompts.prompt import Prompt

Turns = list[tuple[str, str]]
"""Roles and texts of a conversation."""


def as_dicts(turns: Turns) -> list[dict[str, str]]:
    """Return a conversation in its recorded form."""
    return [{"role": role, "content": content} for role, content in turns]


def as_text(prompt: str | Turns) -> str:
    """Return a prompt or a conversation as readable text."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{role}: {content}" for role, content in prompt)


def make_asks(prompts: Sequence[str | Turns | list[int]], params: Mapping[str, Any], *, stream: bool) -> list[Ask]:
    """Return the message for each prompt, a text, a conversation or token ids; each has its own seed."""
    asks = []
    for index, prompt in enumerate(prompts):
        own = {**params, "seed": derive_seed(params["seed"], index)}
        if isinstance(prompt, str):
            asks.append(Ask("", own, text=prompt, stream=stream))
        elif prompt and isinstance(prompt[0], int):
            asks.append(Ask("", own, token_ids=prompt, stream=stream))
        else:
            asks.append(Ask("", own, messages=cast("Turns", prompt), stream=stream))
    return asks


def fill_prompt(prompt: Prompt, turns: Turns, values: Mapping[str, str] = MappingProxyType({})) -> str | Turns | None:
    """Fill the prompt of a release with a conversation; return None if the conversation has no user turn.

    Raises `InputError` for missing variables.
    """
    try:
        filled = fill_conversation(prompt, [Message(*turn) for turn in turns], values)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{error.message}: {error.hint}") from None
    return filled if isinstance(filled, str) or filled is None else [(turn.role, turn.content) for turn in filled]
