"""What an endpoint answers: from headers, bodies and events to values. No I/O is done here."""

import codecs
import json
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

import httpx
from httpx_sse import EventSource

from fledge.client.address import SEE_LOG, Address, one_line
from fledge.core.errors import FledgeError
from fledge.engines.stream import Usage

DONE = "[DONE]"
MAX_ERROR_BYTES = 65_536
MAX_EVENT_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class AnswerHead:
    """Who answered: empty where an endpoint does not say so.

    `request_id` is what feedback names. `release` is NAME/VERSION, `arm` the alias it answered under, and `prompt` the
    label of the release's prompt, where that was filled in. `turns_left_out` counts the oldest turns that the model's
    window had no room for.
    """

    request_id: str = ""
    release: str = ""
    arm: str = ""
    prompt: str = ""
    turns_left_out: int = 0

    @classmethod
    def read(cls, headers: httpx.Headers) -> "AnswerHead":
        return cls(
            request_id=headers.get("x-request-id", ""),
            release=unquote(headers.get("x-fledge-release", "")),
            arm=unquote(headers.get("x-fledge-arm", "")),
            prompt=unquote(headers.get("x-fledge-prompt", "")),
            turns_left_out=count(headers, "x-fledge-turns-left-out"),
        )


@dataclass(frozen=True, kw_only=True)
class EndpointAnswer(AnswerHead):
    """A whole answer, or the next part of a streamed one: its `text` comes after that of the parts before.

    A stream ends with a `finish_reason`: `stop`, or `length` where the answer was cut at `max_tokens`; its `usage`
    comes where `stream_options` ask for it. `raw` is the body or the event as it came, with log probabilities and the
    other answers of `n`.
    """

    text: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Predictions(AnswerHead):
    """The answers to rows, in their order."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class HttpReply:
    """A response that was read; `content` is cut short where it is an error's."""

    address: Address
    status: int
    headers: httpx.Headers
    content: bytes
    phrase: str

    @property
    def head(self) -> AnswerHead:
        return AnswerHead.read(self.headers)

    def check(self) -> None:
        """Raise the error that the status stands for, unless it is a success."""
        if not 200 <= self.status < 300:
            raise self.address.refused(self.status, self.message, count(self.headers, "retry-after"))

    def json(self) -> Any:
        """The body of a success. Raises `FledgeError` for an error, and for a body that is no JSON."""
        self.check()
        try:
            return json.loads(self.content)
        except ValueError:
            raise self.foreign("JSON") from None

    def foreign(self, expected: str) -> FledgeError:
        return self.address.foreign(expected, self.content.decode(errors="replace"))

    @property
    def message(self) -> str:
        """The text of an error, in a line; in OpenAI's form, MLflow's, FastAPI's, or as it is."""
        text = self.content[:MAX_ERROR_BYTES].decode(errors="replace")
        try:
            content = json.loads(text)
        except ValueError:
            return one_line(text) or self.phrase
        if isinstance(content, dict):
            error = content.get("error")
            told = error.get("message") if isinstance(error, dict) else error or content.get("message")
            text = str(told or content.get("detail") or text)
        return one_line(text)


def is_enough(response: httpx.Response, content: bytearray) -> bool:
    """Whether what came of a body will do: an error's message is short."""
    return not response.is_success and len(content) > MAX_ERROR_BYTES


class StreamReader:
    """Reads a streamed answer: its bytes pass `check`, and its events `read`."""

    def __init__(self, address: Address, headers: httpx.Headers) -> None:
        self._address = address
        self._head = asdict(AnswerHead.read(headers))
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pending = 0
        self._ended = False

    @property
    def opening(self) -> EndpointAnswer:
        """The first part, which has no text yet: feedback can be given as soon as an answer has begun."""
        return EndpointAnswer(**self._head)

    def check(self, part: bytes) -> bytes:
        """The same bytes. Raises `FledgeError` for an event that never ends, which would fill the memory, and for what
        is not UTF-8."""
        self._pending += len(part)
        if self._pending > MAX_EVENT_BYTES:
            raise FledgeError(f"{self._address.host} sent an event larger than {MAX_EVENT_BYTES} bytes", SEE_LOG)
        try:
            self._decoder.decode(part)
        except UnicodeDecodeError:
            raise FledgeError(f"{self._address.host} sent an answer that is not UTF-8", SEE_LOG) from None
        return part

    def read(self, data: str) -> EndpointAnswer:
        """The part in an event's data. Raises `FledgeError` for an error frame, or no event of the protocol."""
        self._pending = 0
        try:
            event = json.loads(data)
            if error := event.get("error"):
                told = error.get("message") if isinstance(error, dict) else error
                raise FledgeError(f"{self._address.host}: {one_line(str(told))}", SEE_LOG)
            part = _answer(event, self._head, "delta")
        except (ValueError, AttributeError, TypeError):
            raise self._address.foreign("event of OpenAI's protocol", data) from None
        self._ended = self._ended or bool(part.finish_reason)
        return part

    def finish(self) -> None:
        """Raise `FledgeError` unless the answer came to its end."""
        if not self._ended:
            raise self._address.broken_off()


def event_source(content: Iterable[bytes] | AsyncIterable[bytes]) -> EventSource:
    """The events in decoded bytes, whatever content type a server gave them."""
    return EventSource(httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content))


def read_answer(reply: HttpReply) -> EndpointAnswer:
    """The answer in a body of OpenAI's protocol, of a chat or a completion."""
    body = reply.json()
    try:
        if not body["choices"]:
            raise ValueError
        return _answer(body, asdict(reply.head), "message")
    except (ValueError, LookupError, AttributeError, TypeError):  # no list of choices, or an empty one
        raise reply.foreign("answer of OpenAI's protocol") from None


def read_predictions(reply: HttpReply) -> Predictions:
    """The answers in a body of MLflow's scoring protocol."""
    body = reply.json()
    texts = body.get("predictions") if isinstance(body, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise reply.foreign("list of predictions")
    return Predictions(texts=tuple(texts), **asdict(reply.head))


def read_feedback_id(reply: HttpReply) -> str:
    """The id that the endpoint gave to feedback."""
    body = reply.json()
    if not isinstance(body, dict) or not isinstance(body.get("feedback_id"), str):
        raise reply.foreign("id of feedback")
    return str(body["feedback_id"])


def read_models(reply: HttpReply) -> tuple[str, ...]:
    """The names in a list of models."""
    body = reply.json()
    listed = body.get("data") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        raise reply.foreign("list of models")
    return tuple(item["id"] for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str))


def read_ready(reply: HttpReply) -> bool:
    """Whether the endpoint says that it is ready; where it is not, its status is 503."""
    try:
        return bool(json.loads(reply.content)["ready"])
    except (ValueError, LookupError, TypeError):
        raise reply.foreign("state of a fledge endpoint") from None


def read_health(reply: HttpReply) -> bool:
    return 200 <= reply.status < 300


def count(headers: httpx.Headers, name: str) -> int:
    """A count in a header; 0 where there is none."""
    text = headers.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _answer(body: Mapping[str, Any], head: Mapping[str, Any], key: Literal["message", "delta"]) -> EndpointAnswer:
    """Raises `TypeError` or `AttributeError` where it is none."""
    choice: Mapping[str, Any] = next((item for item in body.get("choices") or () if not item.get("index")), {})
    text = choice.get("text") or (choice.get(key) or {}).get("content") or ""
    return EndpointAnswer(
        # JSON can hold half a surrogate pair, which no terminal, file or further request takes.
        text=str(text).encode(errors="replace").decode(),
        finish_reason=str(choice.get("finish_reason") or ""),
        usage=_usage(body.get("usage")),
        raw=body,
        **head,
    )


def _usage(given: Any) -> Usage | None:
    """The counts of tokens; None where a server gives none that can be read."""
    try:
        return Usage(int(given["prompt_tokens"]), int(given["completion_tokens"]))
    except (LookupError, TypeError, ValueError):
        return None
