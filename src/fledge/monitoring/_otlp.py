"""Outbox records as OpenTelemetry spans, for collectors that accept OTLP over HTTP.

A request is a trace: one server span with a child span for each answer. Attributes follow the semantic
conventions for HTTP servers and, still in development, for generative AI:
https://github.com/open-telemetry/semantic-conventions-genai
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from fledge.core.errors import FledgeError, InputError, MissingExtraError
from fledge.core.messages import Answered, FeedbackRecord, OutboxRecord
from fledge.core.network import LOOPBACK

log = logging.getLogger(__name__)

PATH = "/v1/traces"
PROVIDER = "fledge"  # the conventions have no name for a self-hosted model
EVALUATION = "gen_ai.evaluation.result"
PART_BYTES = 4 << 20  # the default limit of a collector is 20 MiB
SPAN_BYTES = 500  # of a span's names, times and ids
KEY_HINT = "put the collector's key into OTEL_EXPORTER_OTLP_HEADERS, as in authorization=Bearer%20KEY"
URL_HINT = "give the whole URL of the collector's traces, as in http://127.0.0.1:4318/v1/traces"
LOG_HINT = "read the collector's log; the records stay in the outbox"
HINTS = {**dict.fromkeys((401, 403), KEY_HINT), **dict.fromkeys((301, 302, 303, 307, 308, 404, 405), URL_HINT)}


class OtlpRoute(NamedTuple):
    """A route in the terms of the conventions; `prefix` begins the ids of its answers."""

    path: str
    operation: str
    prefix: str = ""


ROUTES = {
    "chat": OtlpRoute("/v1/chat/completions", "chat", "chatcmpl-"),
    "completions": OtlpRoute("/v1/completions", "text_completion", "cmpl-"),
    "invocations": OtlpRoute("/invocations", "text_completion"),
}


class OtlpShipper:
    """Sends records to a collector. It connects at the first call, so an unreachable collector only delays records.

    Ids derive from the request's: a request sent twice has the same ids, and the trace id that it has in MLflow. The
    collector's key, certificates, compression, timeout and the name of the service are set by OpenTelemetry's
    variables: `OTEL_EXPORTER_OTLP_HEADERS`, `_CERTIFICATE`, `_COMPRESSION`, `_TIMEOUT`; `OTEL_SERVICE_NAME`.

    Texts are those of the outbox, which has redacted, hashed or dropped them. Messages are JSON texts, which the
    conventions allow and any backend can show. `gen_ai.response.time_to_first_chunk` is the time to the first token,
    also of an answer that was not streamed: a record does not tell them apart. Feedback is a span below its request,
    with the name and the attributes of the event `gen_ai.evaluation.result`: an event would need a collector that takes
    logs, too.
    """

    def __init__(self, endpoint: str) -> None:
        """`endpoint` is the URL of a collector's traces; its default path is `/v1/traces`.

        Raises `InputError` for an invalid URL, `MissingExtraError` if the exporter is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ModuleNotFoundError:
            raise MissingExtraError("the OTLP exporter", "otlp") from None
        logging.getLogger(OTLPSpanExporter.__module__).disabled = True  # its errors are raised here instead
        where = _complete_url(endpoint)
        self._session = _Session(where)
        self._exporter = OTLPSpanExporter(where, session=self._session, max_request_size=0)
        self._scope = InstrumentationScope("fledge", version("fledge"))
        about = {"service.name": "fledge", "service.version": self._scope.version}
        self._resource = Resource(about).merge(OTELResourceDetector().detect())

    def __call__(self, records: Sequence[OutboxRecord | FeedbackRecord]) -> None:
        """Ship `records`. Raises `FledgeError` if the collector refuses them or does not answer."""
        drafts = [draft for record in records for draft in _draft_spans(record)]
        for part in _split_into_parts(drafts):
            self._session.last_error = None
            done = self._exporter.export([self._span(draft) for draft in part])
            if done is not SpanExportResult.SUCCESS:
                raise self._session.last_error or FledgeError("the spans cannot be sent", hint=LOG_HINT)

    def _span(self, draft: "_Draft") -> ReadableSpan:
        return ReadableSpan(
            draft.name,
            _derive_context(draft.request_id, draft.key),
            _derive_context(draft.request_id) if draft.key else None,
            self._resource,
            draft.attributes,
            kind=draft.kind,
            status=draft.status,
            start_time=draft.start_ns,
            end_time=draft.end_ns,
            instrumentation_scope=self._scope,
        )


class _Draft(NamedTuple):
    """A span without its ids; `key` identifies a child span of a request and is empty for the root span."""

    request_id: str
    key: str
    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    kind: SpanKind = SpanKind.INTERNAL
    status: Status = Status(StatusCode.UNSET)

    @property
    def size(self) -> int:
        """Return its approximate size in bytes."""
        return SPAN_BYTES + sum(len(str(value).encode()) for value in self.attributes.values())


class _Session(requests.Session):
    """Raises for any status but 2xx and keeps the error as `last_error`: the exporter counts a redirect as success and
    would retry by itself, which the recorder does."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        parts = urlsplit(endpoint)
        self.trust_env = parts.hostname not in LOOPBACK  # no proxy for loopback
        self.last_error: FledgeError | None = None
        self._collector = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        try:
            answer = super().request(*arguments, **options)
        except requests.RequestException as error:
            why = f"the collector at {self._collector} does not answer: {type(error).__name__}"
            self.last_error = FledgeError(why, hint="start it; until then the records stay in the outbox")
            raise self.last_error from None
        if not 200 <= answer.status_code < 300:
            why = f"the collector at {self._collector} refused the spans: {answer.status_code} {answer.reason}"
            self.last_error = FledgeError(why, hint=HINTS.get(answer.status_code, LOG_HINT))
            raise self.last_error
        if "protobuf" in answer.headers.get("content-type", ""):
            self._log_rejected(answer.content)
        return answer

    def _log_rejected(self, content: bytes) -> None:
        """Log rejected spans; a partial success must not be retried."""
        try:
            partly = ExportTraceServiceResponse.FromString(content).partial_success
        except DecodeError:
            return
        if partly.rejected_spans:
            log.warning("the collector rejected %d spans: %s", partly.rejected_spans, partly.error_message)


def _complete_url(given: str) -> str:
    try:
        parts = urlsplit(given)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # an invalid port
        valid = False
    if not valid:
        raise InputError(f"invalid collector URL: {given!r}", hint=URL_HINT)
    return given if parts.path.strip("/") else parts._replace(path=PATH).geturl()


def _split_into_parts(drafts: Sequence[_Draft]) -> Iterator[list[_Draft]]:
    """Yield parts of at most `PART_BYTES`, or of one larger span."""
    part: list[_Draft] = []
    size = 0
    for draft in drafts:
        if part and size + draft.size > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(draft)
        size += draft.size
    if part:
        yield part


def _derive_context(request_id: str, key: str = "") -> SpanContext:
    """Return the ids of a span, derived from the request's id."""
    try:
        trace = int(request_id, 16) if len(request_id) == 32 else 0
    except ValueError:
        trace = 0
    span = _derive_int(f"{request_id}/{key}", 8)
    return SpanContext(trace or _derive_int(request_id, 16), span, is_remote=False, trace_flags=TraceFlags(1))


def _derive_int(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size])


def _draft_spans(record: OutboxRecord | FeedbackRecord) -> list[_Draft]:
    if isinstance(record, FeedbackRecord):
        return [_draft_evaluation(record)]
    return [_draft_request(record), *(_draft_answer(record, number) for number in range(len(record.answers)))]


def _draft_request(record: OutboxRecord) -> _Draft:
    path = _route_of(record).path
    about = {
        "http.request.method": "POST",
        "http.route": path,
        "url.path": path,
        "http.response.status_code": record.status,
        # In the conventions a client error is no error of the server.
        "error.type": str(record.status) if record.status >= 500 else None,
        "fledge.request_id": record.request_id,
        "fledge.release": _release_name(record),
        "fledge.arm": record.arm or None,
        "fledge.error": record.error or None,
        **record.tags,
    }
    return _Draft(
        record.request_id,
        "",
        f"POST {path}",
        record.started_ns,
        record.ended_ns,
        _drop_none(about),
        # A shadow answer must not count as a request.
        SpanKind.INTERNAL if record.is_shadow else SpanKind.SERVER,
        _build_error_status(record) if record.status >= 500 else Status(StatusCode.UNSET),
    )


def _draft_answer(record: OutboxRecord, number: int) -> _Draft:
    answer, route = record.answers[number], _route_of(record)
    turns = _turns(record, number)
    operation = "chat" if turns else route.operation
    failed = record.status >= 400 and not answer.finish_reason
    prompt, _, prompt_version = record.prompt.rpartition("/")
    about = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": record.release or None,
        "gen_ai.response.model": _release_name(record),
        "gen_ai.response.id": f"{route.prefix}{record.request_id}",
        "gen_ai.response.finish_reasons": [answer.finish_reason] if answer.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": _seconds_between(answer.started_ns, answer.first_token_ns),
        # Several answers to one prompt count it once: the others have none.
        "gen_ai.usage.input_tokens": answer.prompt_tokens or None,
        "gen_ai.usage.output_tokens": answer.completion_tokens,
        "gen_ai.prompt.name": prompt or None,
        "gen_ai.prompt.version": prompt_version or None,
        "gen_ai.input.messages": _format_input(turns, answer),
        "gen_ai.output.messages": _format_output(answer),
        "error.type": str(record.status) if failed else None,
    }
    return _Draft(
        record.request_id,
        f"answer/{number}",
        f"{operation} {record.release}".rstrip(),
        answer.started_ns,
        answer.ended_ns,
        _drop_none(about),
        SpanKind.CLIENT,  # the engine is another process
        _build_error_status(record) if failed else Status(StatusCode.UNSET),
    )


def _draft_evaluation(record: FeedbackRecord) -> _Draft:
    value = record.value
    about = {
        "gen_ai.evaluation.name": record.name,
        "gen_ai.evaluation.score.value": None if isinstance(value, str) else float(value),
        "gen_ai.evaluation.score.label": json.dumps(value) if isinstance(value, bool) else _text_or_none(value),
        "gen_ai.evaluation.explanation": record.comment or None,
        "user.id": record.user or None,
        "fledge.feedback_id": record.feedback_id,
    }
    moment = (record.time_ns, record.time_ns)
    return _Draft(record.request_id, f"feedback/{record.feedback_id}", EVALUATION, *moment, _drop_none(about))


def _route_of(record: OutboxRecord) -> OtlpRoute:
    return ROUTES.get(record.route, OtlpRoute(f"/{record.route}", "text_completion"))


def _release_name(record: OutboxRecord) -> str | None:
    return f"{record.release}/{record.version}" if record.release else None


def _build_error_status(record: OutboxRecord) -> Status:
    return Status(StatusCode.ERROR, record.error or None)


def _seconds_between(start_ns: int, end_ns: int) -> float | None:
    return (end_ns - start_ns) / 1e9 if end_ns else None


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _drop_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if value is not None}


def _turns(record: OutboxRecord, number: int) -> list[dict[str, Any]]:
    """Return the conversation if the outbox has it as the model saw it, else an empty list."""
    rows = record.inputs if isinstance(record.inputs, list) else [record.inputs] * len(record.answers)
    row = rows[number] if number < len(rows) else None
    turns = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(turns, list):
        return []
    found = [turn for turn in turns if isinstance(turn, dict)]
    text = "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in found)
    # A prompt may have turned the turns into another text.
    return found if not record.prompt or text == record.answers[number].prompt_text else []


def _format_input(turns: Sequence[Mapping[str, Any]], answer: Answered) -> str | None:
    if turns:
        return json.dumps([_build_message(turn.get("role"), turn.get("content")) for turn in turns], ensure_ascii=False)
    return json.dumps([_build_message("user", answer.prompt_text)], ensure_ascii=False) if answer.prompt_text else None


def _format_output(answer: Answered) -> str | None:
    if not answer.output:
        return None
    message = {**_build_message("assistant", answer.output), "finish_reason": answer.finish_reason or "error"}
    return json.dumps([message], ensure_ascii=False)


def _build_message(role: Any, content: Any) -> dict[str, Any]:
    return {"role": str(role or ""), "parts": [{"type": "text", "content": str(content or "")}]}
