"""Read the responses of an endpoint: headers, bodies and events. No I/O."""

import codecs
import json
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

import httpx
from httpx_sse import EventSource

from fledge.client.address import SEE_LOG, Address, shorten
from fledge.core.errors import FledgeError
from fledge.engines.stream import Usage

DONE = "[DONE]"
MAX_ERROR_BYTES = 65_536
MAX_EVENT_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class AnswerHead:
    """The origin of an answer; fields that the endpoint does not send are empty.

    `request_id` identifies the answer for feedback. `release` is NAME/VERSION, `arm` its alias, and `prompt` the label
    of the release's prompt, if that was filled in. `turns_left_out` counts the oldest turns that did not fit into the
    context window.
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
            turns_left_out=read_count(headers, "x-fledge-turns-left-out"),
        )


@dataclass(frozen=True, kw_only=True)
class EndpointAnswer(AnswerHead):
    """A complete answer, or the next part of a streamed one, whose `text` is appended to the earlier parts.

    A stream ends with a `finish_reason`: `stop`, or `length` if the answer was cut at `max_tokens`; `usage` is set if
    `stream_options` ask for it. `raw` is the decoded body or event, with log probabilities and the other answers of
    `n`.
    """

    text: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Predictions(AnswerHead):
    """The answers to rows, in order."""

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
            raise self.address.status_error(self.status, self.message, read_count(self.headers, "retry-after"))

    def json(self) -> Any:
        """Return the decoded body. Raises `FledgeError` for an error status or invalid JSON."""
        self.check()
        try:
            return json.loads(self.content)
        except ValueError:
            raise self.protocol_error("JSON") from None

    def protocol_error(self, expected: str) -> FledgeError:
        return self.address.protocol_error(expected, self.content.decode(errors="replace"))

    @property
    def message(self) -> str:
        """The message of an error on one line, from the format of OpenAI, MLflow or FastAPI, or the plain text."""
        text = self.content[:MAX_ERROR_BYTES].decode(errors="replace")
        try:
            content = json.loads(text)
        except ValueError:
            return shorten(text) or self.phrase
        if isinstance(content, dict):
            error = content.get("error")
            message = error.get("message") if isinstance(error, dict) else error or content.get("message")
            text = str(message or content.get("detail") or text)
        return shorten(text)


def is_error_message_complete(response: httpx.Response, content: bytearray) -> bool:
    """Return whether enough of an error's body was read to get its message."""
    return not response.is_success and len(content) > MAX_ERROR_BYTES


class StreamReader:
    """Reads a streamed answer: pass its bytes through `check` and its events to `read`."""

    def __init__(self, address: Address, headers: httpx.Headers) -> None:
        self._address = address
        self._head = asdict(AnswerHead.read(headers))
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pending = 0
        self._ended = False

    @property
    def opening(self) -> EndpointAnswer:
        """The first part, without text: it has the request id for feedback."""
        return EndpointAnswer(**self._head)

    def check(self, part: bytes) -> bytes:
        """Return the same bytes. Raises `FledgeError` for an event above `MAX_EVENT_BYTES` and for invalid UTF-8."""
        self._pending += len(part)
        if self._pending > MAX_EVENT_BYTES:
            raise FledgeError(f"{self._address.host} sent an event larger than {MAX_EVENT_BYTES} bytes", SEE_LOG)
        try:
            self._decoder.decode(part)
        except UnicodeDecodeError:
            raise FledgeError(f"{self._address.host} sent an answer that is not UTF-8", SEE_LOG) from None
        return part

    def read(self, data: str) -> EndpointAnswer:
        """Return the part in the data of an event. Raises `FledgeError` for an error frame or an invalid event."""
        self._pending = 0
        try:
            event = json.loads(data)
            if error := event.get("error"):
                message = error.get("message") if isinstance(error, dict) else error
                raise FledgeError(f"{self._address.host}: {shorten(str(message))}", SEE_LOG)
            part = _parse_answer(event, self._head, "delta")
        except (ValueError, AttributeError, TypeError):
            raise self._address.protocol_error("event of OpenAI's protocol", data) from None
        self._ended = self._ended or bool(part.finish_reason)
        return part

    def finish(self) -> None:
        """Raise `FledgeError` unless the answer is complete."""
        if not self._ended:
            raise self._address.incomplete_error()


def event_source(content: Iterable[bytes] | AsyncIterable[bytes]) -> EventSource:
    """Return the events in decoded bytes, ignoring the content type of the server."""
    return EventSource(httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content))


def read_answer(reply: HttpReply) -> EndpointAnswer:
    """Return the answer in a chat or completion body of OpenAI's protocol."""
    body = reply.json()
    try:
        if not body["choices"]:
            raise ValueError
        return _parse_answer(body, asdict(reply.head), "message")
    except (ValueError, LookupError, AttributeError, TypeError):  # no choices
        raise reply.protocol_error("answer of OpenAI's protocol") from None


def read_predictions(reply: HttpReply) -> Predictions:
    """Return the answers in a body of MLflow's scoring protocol."""
    body = reply.json()
    texts = body.get("predictions") if isinstance(body, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise reply.protocol_error("list of predictions")
    return Predictions(texts=tuple(texts), **asdict(reply.head))


def read_feedback_id(reply: HttpReply) -> str:
    """Return the id of the recorded feedback."""
    body = reply.json()
    if not isinstance(body, dict) or not isinstance(body.get("feedback_id"), str):
        raise reply.protocol_error("feedback id")
    return str(body["feedback_id"])


def read_models(reply: HttpReply) -> tuple[str, ...]:
    """Return the names in a list of models."""
    body = reply.json()
    listed = body.get("data") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        raise reply.protocol_error("list of models")
    return tuple(item["id"] for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str))


def read_ready(reply: HttpReply) -> bool:
    """Return whether the endpoint reports that it is ready, also in a response of status 503."""
    try:
        return bool(json.loads(reply.content)["ready"])
    except (ValueError, LookupError, TypeError):
        raise reply.protocol_error("status of a fledge endpoint") from None


def read_health(reply: HttpReply) -> bool:
    return 200 <= reply.status < 300


def read_count(headers: httpx.Headers, name: str) -> int:
    """Return the count in a header, 0 if it is missing or invalid."""
    text = headers.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _parse_answer(body: Mapping[str, Any], head: Mapping[str, Any], key: Literal["message", "delta"]) -> EndpointAnswer:
    """Return an answer or a part. Raises `TypeError` or `AttributeError` for an invalid body."""
    choice: Mapping[str, Any] = next((item for item in body.get("choices") or () if not item.get("index")), {})
    text = choice.get("text") or (choice.get(key) or {}).get("content") or ""
    return EndpointAnswer(
        # JSON may contain a lone surrogate, which cannot be encoded as UTF-8.
        text=str(text).encode(errors="replace").decode(),
        finish_reason=str(choice.get("finish_reason") or ""),
        usage=_parse_usage(body.get("usage")),
        raw=body,
        **head,
    )


def _parse_usage(given: Any) -> Usage | None:
    """Return the token counts, None if missing or invalid."""
    try:
        return Usage(int(given["prompt_tokens"]), int(given["completion_tokens"]))
    except (LookupError, TypeError, ValueError):
        return None
