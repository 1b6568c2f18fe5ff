"""The requests to an endpoint, each with the function that reads its response. No I/O."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from fledge.client.address import Address
from fledge.client.answers import (
    EndpointAnswer,
    HttpReply,
    Predictions,
    read_answer,
    read_feedback_id,
    read_health,
    read_models,
    read_predictions,
    read_ready,
)
from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.serving.response_models import REQUEST_ID

T = TypeVar("T")

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A conversation; a text is one turn of the user."""

InvocationRows = str | Sequence[str | Mapping[str, Any]] | Mapping[str, Sequence[Any]]
"""Questions, or values of the prompt's variables by row or by column."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: a POST of `content`, a GET if that is None."""

    url: str
    read: Callable[[HttpReply], T]
    content: bytes | None = None
    session: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for httpx."""
        headers = {"x-session-id": self.session} if self.session else {}
        if self.content is None:
            return {"method": "GET", "url": self.url, "headers": headers}
        headers["content-type"] = "application/json"
        return {"method": "POST", "url": self.url, "headers": headers, "content": self.content}


class GenerationOptions(NamedTuple):
    """Options of both chats and completions."""

    stream: bool
    model: str | None
    session: str | None
    settings: Mapping[str, Any]

    def call(self, address: Address, path: str, body: Mapping[str, Any]) -> Call[EndpointAnswer]:
        model = self.model or address.model
        chosen = {**({"model": model} if model else {}), **({"stream": True} if self.stream else {})}
        content = encode({**chosen, **body, **self.settings})
        return Call(f"{address.base}/{path}", read_answer, content, self.session)


def chat(address: Address, messages: Messages, options: GenerationOptions) -> Call[EndpointAnswer]:
    given = [Message("user", messages)] if isinstance(messages, str) else messages
    turns = [asdict(turn) if isinstance(turn, Message) else turn for turn in given]
    return options.call(address, "chat/completions", {"messages": turns})


def complete(address: Address, prompt: str, options: GenerationOptions) -> Call[EndpointAnswer]:
    return options.call(address, "completions", {"prompt": prompt})


def predict(
    address: Address, rows: InvocationRows, session: str | None, settings: Mapping[str, Any]
) -> Call[Predictions]:
    content = encode({"inputs": rows, **({"params": settings} if settings else {})})
    return Call(f"{address.root}/invocations", read_predictions, content, session)


def feedback(
    address: Address, request_id: str, value: bool | float | str, name: str, comment: str, user: str
) -> Call[str]:
    if not re.fullmatch(REQUEST_ID, request_id):
        hint = "32 hexadecimal digits: the header x-request-id of an answer, or the id in its body"
        raise InputError(f"invalid request id: {request_id!r}", hint)
    body = {"request_id": request_id, "value": value, "name": name, "comment": comment, "user": user}
    return Call(f"{address.root}/feedback", read_feedback_id, encode(body))


def models(address: Address) -> Call[tuple[str, ...]]:
    return Call(f"{address.base}/models", read_models)


def ready(address: Address) -> Call[bool]:
    return Call(f"{address.root}/ready", read_ready)


def health(address: Address) -> Call[bool]:
    return Call(f"{address.root}/health", read_health)


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a body as JSON. Raises `InputError` for values that JSON cannot represent."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        hint = "use texts, finite numbers, lists and dicts"
        raise InputError(f"the request cannot be written as JSON: {error}", hint) from None
