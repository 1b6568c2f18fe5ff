"""Responses of an endpoint: parse headers, bodies and events. No I/O."""

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
    """The origin of an answer; fields that an endpoint does not report are empty.

    Feedback needs `request_id`. `release` is NAME/VERSION, `arm` its alias, `prompt` the label of the release's prompt
    if it was used. `turns_left_out` is the number of oldest turns that did not fit in the model's window.
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
    """A complete answer, or the next part of a streamed one.

    The last part of a stream has a `finish_reason`: `stop`, or `length` if the answer was cut at `max_tokens`. `usage`
    needs `stream_options`. `raw` is the body or event, with log probabilities and the other answers of `n`.
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
    """A response; the `content` of an error may be truncated."""

    address: Address
    status: int
    headers: httpx.Headers
    content: bytes
    phrase: str

    @property
    def head(self) -> AnswerHead:
        return AnswerHead.read(self.headers)

    def check(self) -> None:
        """Raise the error for the status, unless it is a success."""
        if not 200 <= self.status < 300:
            raise self.address.refused(self.status, self.message, count(self.headers, "retry-after"))

    def json(self) -> Any:
        """Return the JSON body. Raises `FledgeError` for an error status or invalid JSON."""
        self.check()
        try:
            return json.loads(self.content)
        except ValueError:
            raise self.foreign("JSON") from None

    def foreign(self, expected: str) -> FledgeError:
        return self.address.foreign(expected, self.content.decode(errors="replace"))

    @property
    def message(self) -> str:
        """Return the message of an error as one line, in the form of OpenAI, MLflow or FastAPI, or the raw text."""
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
    """Return whether enough of a body was read: an error's message is short."""
    return not response.is_success and len(content) > MAX_ERROR_BYTES


class StreamReader:
    """Reads a streamed answer: bytes go through `check`, events through `read`."""

    def __init__(self, address: Address, headers: httpx.Headers) -> None:
        self._address = address
        self._head = asdict(AnswerHead.read(headers))
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pending = 0
        self._ended = False

    @property
    def opening(self) -> EndpointAnswer:
        """Return the first part, without text: it has the id for feedback."""
        return EndpointAnswer(**self._head)

    def check(self, part: bytes) -> bytes:
        """Return the same bytes. Raises `FledgeError` for an endless event, which would fill the memory, and for bytes
        that are not UTF-8."""
        self._pending += len(part)
        if self._pending > MAX_EVENT_BYTES:
            raise FledgeError(f"{self._address.host} sent an event larger than {MAX_EVENT_BYTES} bytes", SEE_LOG)
        try:
            self._decoder.decode(part)
        except UnicodeDecodeError:
            raise FledgeError(f"{self._address.host} sent an answer that is not UTF-8", SEE_LOG) from None
        return part

    def read(self, data: str) -> EndpointAnswer:
        """Return the part in an event's data. Raises `FledgeError` for an error frame or an event of another
        protocol."""
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
        """Raise `FledgeError` unless the answer is complete."""
        if not self._ended:
            raise self._address.broken_off()


def event_source(content: Iterable[bytes] | AsyncIterable[bytes]) -> EventSource:
    """Return the events in decoded bytes, regardless of the content type."""
    return EventSource(httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content))


def read_answer(reply: HttpReply) -> EndpointAnswer:
    """Return the answer in a body of OpenAI's protocol, of a chat or a completion."""
    body = reply.json()
    try:
        if not body["choices"]:
            raise ValueError
        return _answer(body, asdict(reply.head), "message")
    except (ValueError, LookupError, AttributeError, TypeError):  # no list of choices, or an empty one
        raise reply.foreign("answer of OpenAI's protocol") from None


def read_predictions(reply: HttpReply) -> Predictions:
    """Return the answers in a body of MLflow's scoring protocol."""
    body = reply.json()
    texts = body.get("predictions") if isinstance(body, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise reply.foreign("list of predictions")
    return Predictions(texts=tuple(texts), **asdict(reply.head))


def read_feedback_id(reply: HttpReply) -> str:
    """Return the id of the feedback."""
    body = reply.json()
    if not isinstance(body, dict) or not isinstance(body.get("feedback_id"), str):
        raise reply.foreign("id of feedback")
    return str(body["feedback_id"])


def read_models(reply: HttpReply) -> tuple[str, ...]:
    """Return the names in a list of models."""
    body = reply.json()
    listed = body.get("data") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        raise reply.foreign("list of models")
    return tuple(item["id"] for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str))


def read_ready(reply: HttpReply) -> bool:
    """Return whether the endpoint is ready; otherwise its status is 503."""
    try:
        return bool(json.loads(reply.content)["ready"])
    except (ValueError, LookupError, TypeError):
        raise reply.foreign("state of a fledge endpoint") from None


def read_health(reply: HttpReply) -> bool:
    return 200 <= reply.status < 300


def count(headers: httpx.Headers, name: str) -> int:
    """Return a count in a header, 0 without one."""
    text = headers.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _answer(body: Mapping[str, Any], head: Mapping[str, Any], key: Literal["message", "delta"]) -> EndpointAnswer:
    """Return the answer in an object. Raises `TypeError` or `AttributeError` if there is none."""
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
    """Return the token counts, None if the server sends no valid ones."""
    try:
        return Usage(int(given["prompt_tokens"]), int(given["completion_tokens"]))
    except (LookupError, TypeError, ValueError):
        return None
