"""Exported spans, as a local collector receives them."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from fledge.core.errors import FledgeError, InputError
from fledge.core.installation import install_command
from fledge.core.messages import Answered, FeedbackRecord, OutboxRecord
from fledge.monitoring import _otlp
from fledge.monitoring._otlp import OtlpShipper
from fledge.serving import lifecycle

ID = "0af7651916cd43dd8448eb211c80319c"
SECOND = 1_000_000_000
START = 1_760_000_000 * SECOND
ANSWER = Answered("user: Hello", "Hi", START + 1000, START + SECOND // 4, START + SECOND, 5, 2, "stop")
CHAT = OutboxRecord(
    trace_id=f"tr-{ID}",
    request_id=ID,
    route="chat",
    status=200,
    started_ns=START,
    ended_ns=START + SECOND,
    release="mine",
    version=3,
    arm="champion",
    inputs={"messages": [{"role": "user", "content": "Hello"}]},
    answers=[ANSWER],
)


class Collector:
    """Receives traces over HTTP and replies with `status`; `bodies` includes refused requests."""

    def __init__(self) -> None:
        self.status = 200
        self.delay_s = 0.0
        self.reply = ExportTraceServiceResponse()
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # keeps connections alive

            def do_POST(self) -> None:
                collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                collector.paths.append(self.path)
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
                time.sleep(collector.delay_s)
                content = collector.reply.SerializeToString()
                self.send_response(collector.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the library's name)
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.base}/v1/traces"

    @property
    def spans(self) -> list[Span]:
        requests = map(ExportTraceServiceRequest.FromString, self.bodies)
        return [
            span
            for request in requests
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    thread = threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


def ship(collector: Collector, *records: OutboxRecord | FeedbackRecord) -> list[Span]:
    OtlpShipper(collector.url)(records)
    return collector.spans


def attributes(span: Span) -> dict[str, Any]:
    return {item.key: plain(item.value) for item in span.attributes}


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


def message(role: str, text: str, **more: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}], **more}


def test_chat_is_a_trace_of_two_spans(collector: Collector) -> None:
    root, answer = ship(collector, CHAT)
    assert (root.name, root.kind, root.parent_span_id) == ("POST /v1/chat/completions", Span.SPAN_KIND_SERVER, b"")
    assert root.trace_id.hex() == ID  # as in MLflow
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (START, START + SECOND)
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "fledge.request_id": ID,
        "fledge.release": "mine/3",
        "fledge.arm": "champion",
    }
    assert (answer.name, answer.kind) == ("chat mine", Span.SPAN_KIND_CLIENT)
    assert (answer.trace_id, answer.parent_span_id) == (root.trace_id, root.span_id)
    assert answer.span_id not in (b"", root.span_id)
    assert (answer.start_time_unix_nano, answer.end_time_unix_nano) == (ANSWER.started_ns, ANSWER.ended_ns)
    found = attributes(answer)
    assert json.loads(found.pop("gen_ai.input.messages")) == [message("user", "Hello")]
    assert json.loads(found.pop("gen_ai.output.messages")) == [message("assistant", "Hi", finish_reason="stop")]
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fledge",
        "gen_ai.request.model": "mine",
        "gen_ai.response.model": "mine/3",
        "gen_ai.response.id": f"chatcmpl-{ID}",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": pytest.approx(0.249999),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
    }


def test_resource_and_headers_of_an_export(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key")
    OtlpShipper(collector.base)([CHAT])
    assert collector.paths == ["/v1/traces"]
    assert collector.headers["content-type"] == "application/x-protobuf"
    assert collector.headers["authorization"] == "Bearer key"
    (group,) = ExportTraceServiceRequest.FromString(collector.bodies[0]).resource_spans
    assert {item.key: plain(item.value) for item in group.resource.attributes}["service.name"] == "fledge"
    assert [scope.scope.name for scope in group.scope_spans] == ["fledge"]
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    ship(collector, CHAT)
    (group,) = ExportTraceServiceRequest.FromString(collector.bodies[1]).resource_spans
    assert {item.key: plain(item.value) for item in group.resource.attributes}["service.name"] == "shop"


def test_prompt_tokens_are_counted_once_for_several_answers(collector: Collector) -> None:
    cut = replace(ANSWER, prompt_text="Once", output="", prompt_tokens=0, first_token_ns=0, finish_reason="length")
    inputs = {"prompt": "Once"}
    record = replace(CHAT, route="completions", inputs=inputs, answers=[replace(ANSWER, prompt_text="Once"), cut])
    root, *answers = ship(collector, record)
    assert root.name == "POST /v1/completions"
    assert [answer.name for answer in answers] == ["text_completion mine"] * 2
    assert len({answer.span_id for answer in (root, *answers)}) == 3
    one, two = map(attributes, answers)
    assert one["gen_ai.response.id"] == two["gen_ai.response.id"] == f"cmpl-{ID}"
    assert one["gen_ai.usage.input_tokens"] == 5
    assert "gen_ai.usage.input_tokens" not in two
    assert two["gen_ai.response.finish_reasons"] == ["length"]
    assert "gen_ai.response.time_to_first_chunk" not in two
    assert json.loads(two["gen_ai.input.messages"]) == [message("user", "Once")]
    assert "gen_ai.output.messages" not in two


def test_each_row_of_a_table_is_a_span(collector: Collector) -> None:
    rows = [{"question": "Why?"}, {"messages": [{"role": "system", "content": "Be brief"}]}]
    answers = [replace(ANSWER, prompt_text="Say: Why?"), replace(ANSWER, prompt_text="system: Be brief")]
    record = replace(CHAT, route="invocations", prompt="expert/2", inputs=rows, answers=answers)
    root, filled, chat = ship(collector, record)
    assert root.name == "POST /invocations"
    assert (filled.name, chat.name) == ("text_completion mine", "chat mine")
    one, two = attributes(filled), attributes(chat)
    assert (one["gen_ai.prompt.name"], one["gen_ai.prompt.version"]) == ("expert", "2")
    assert json.loads(one["gen_ai.input.messages"]) == [message("user", "Say: Why?")]
    assert json.loads(two["gen_ai.input.messages"]) == [message("system", "Be brief")]


def test_chat_filled_into_a_prompt_has_the_filled_text(collector: Collector) -> None:
    record = replace(CHAT, prompt="expert/2", answers=[replace(ANSWER, prompt_text="user: Say: Hello")])
    _, answer = ship(collector, record)
    assert answer.name == "chat mine"
    assert json.loads(attributes(answer)["gen_ai.input.messages"]) == [message("user", "user: Say: Hello")]


def test_only_recorded_texts_are_sent(collector: Collector) -> None:
    dropped = replace(CHAT, inputs=None, answers=[replace(ANSWER, prompt_text="", output="")])
    hashed = replace(CHAT, inputs="sha256:1", answers=[replace(ANSWER, prompt_text="sha256:2", output="sha256:3")])
    _, without, _, with_hashes = map(attributes, ship(collector, dropped, hashed))
    assert not {"gen_ai.input.messages", "gen_ai.output.messages"} & without.keys()
    assert without["gen_ai.operation.name"] == "chat"
    assert json.loads(with_hashes["gen_ai.input.messages"]) == [message("user", "sha256:2")]
    assert json.loads(with_hashes["gen_ai.output.messages"])[0]["parts"][0]["content"] == "sha256:3"


def test_server_error_marks_the_request_and_incomplete_answers(collector: Collector) -> None:
    broken = replace(ANSWER, output="H", finish_reason="")
    record = replace(CHAT, status=504, error="too late", answers=[ANSWER, broken])
    root, whole, half = ship(collector, record)
    for span in (root, half):
        assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "too late")
        assert attributes(span)["error.type"] == "504"
    assert whole.status.code == Status.STATUS_CODE_UNSET
    assert "error.type" not in attributes(whole)
    assert "gen_ai.response.finish_reasons" not in attributes(half)
    assert json.loads(attributes(half)["gen_ai.output.messages"])[0]["finish_reason"] == "error"


def test_client_error_is_not_a_span_error(collector: Collector) -> None:
    refused = replace(CHAT, status=400, error="no messages", release="", version=0, arm="", answers=[])
    (root,) = ship(collector, refused)
    assert root.status.code == Status.STATUS_CODE_UNSET
    found = attributes(root)
    assert (found["http.response.status_code"], found["fledge.error"]) == (400, "no messages")
    assert not {"error.type", "fledge.release", "fledge.arm"} & found.keys()


def test_shadow_answer_is_an_internal_span(collector: Collector) -> None:
    root, _ = ship(collector, replace(CHAT, tags={"fledge.shadow_of": "another"}))
    assert root.kind == Span.SPAN_KIND_INTERNAL
    assert attributes(root)["fledge.shadow_of"] == "another"


@pytest.mark.parametrize(
    ("value", "score", "label"), [(True, 1.0, "true"), (False, 0.0, "false"), (0.5, 0.5, None), ("good", None, "good")]
)
def test_feedback_is_a_child_of_its_request(
    collector: Collector, value: bool | float | str, score: float | None, label: str | None
) -> None:
    feedback = FeedbackRecord("f1", ID, "helpful", value, "well said", "alice", START + 5)
    root, _, span = ship(collector, CHAT, feedback)
    assert (span.name, span.trace_id, span.parent_span_id) == (_otlp.EVALUATION, root.trace_id, root.span_id)
    assert span.start_time_unix_nano == span.end_time_unix_nano == START + 5
    expected = {
        "gen_ai.evaluation.name": "helpful",
        "gen_ai.evaluation.score.value": score,
        "gen_ai.evaluation.score.label": label,
        "gen_ai.evaluation.explanation": "well said",
        "user.id": "alice",
        "fledge.feedback_id": "f1",
    }
    assert attributes(span) == {key: item for key, item in expected.items() if item is not None}


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (302, "whole URL"),
        (400, "log"),
        (401, "OTEL_EXPORTER_OTLP_HEADERS"),
        (404, "whole URL"),
        (429, "log"),
        (500, "log"),
        (503, "log"),
    ],
)
def test_refused_export_raises_and_is_repeated_with_the_same_ids(
    collector: Collector, status: int, hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    export = OtlpShipper(collector.url)
    collector.status = status
    records = (CHAT, FeedbackRecord("f1", ID, "helpful", True))
    with pytest.raises(FledgeError, match=f"{collector.url} refused the spans: {status}") as caught:
        export(records)
    assert hint in caught.value.hint
    assert len(collector.bodies) == 1  # the recorder retries
    collector.status = 200
    export(records)
    OtlpShipper(collector.url)(records)  # a new recorder after a crash
    first, *others = collector.bodies
    assert others == [first, first]
    assert capfd.readouterr() == ("", "")


def test_unreachable_collector_is_reported(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    export = OtlpShipper(f"http://user:hidden@127.0.0.1:{port}/v1/traces?key=hidden")
    started = time.monotonic()
    with pytest.raises(FledgeError, match=f"http://127.0.0.1:{port}/v1/traces does not answer") as caught:
        export([CHAT])
    assert time.monotonic() - started < 60  # without retries
    assert caught.value.hint
    assert "hidden" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_unresponsive_collector_is_reported(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    export = OtlpShipper(collector.url)
    collector.delay_s = 10.0
    with pytest.raises(FledgeError, match="does not answer: ReadTimeout"):
        export([CHAT])


def test_partial_success_is_logged_and_not_retried(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    collector.reply.partial_success.rejected_spans = 1
    collector.reply.partial_success.error_message = "too old"
    ship(collector, CHAT)
    assert caplog.messages == ["the collector rejected 1 spans: too old"]


def test_large_exports_are_split(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_otlp, "PART_BYTES", 20_000)
    large = replace(CHAT, answers=[replace(ANSWER, output="ä" * 15_000)])
    spans = ship(collector, *[CHAT] * 20, large, CHAT)
    assert len(spans) == 44
    assert 3 <= len(collector.bodies) <= 6
    assert sum(len(body) > 20_000 for body in collector.bodies) == 1  # one span is never split


def test_empty_batch_sends_nothing(collector: Collector) -> None:
    assert ship(collector) == []
    assert collector.bodies == []


def test_any_request_id_gives_a_valid_unique_trace_id() -> None:
    contexts = [_otlp._derive_context(request_id) for request_id in (ID, "z" * 32, "short", "")]
    assert all(context.is_valid for context in contexts)
    assert len({context.trace_id for context in contexts}) == 4


@pytest.mark.parametrize("url", ["", "collector:4318", "ftp://collector", "http://", "http://collector:port"])
def test_invalid_collector_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="invalid collector URL"):
        OtlpShipper(url)


def test_every_recorded_route_has_a_span_name() -> None:
    assert {name: route.path for name, route in _otlp.ROUTES.items()} == {
        name: path for path, name in lifecycle.ROUTES.items()
    }


def test_missing_extra_is_reported_with_its_install_command() -> None:
    program = """
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "opentelemetry.exporter" else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hidden
from fledge.core.errors import FledgeError
from fledge.monitoring._otlp import OtlpShipper
try:
    OtlpShipper("http://127.0.0.1:4318/v1/traces")
except FledgeError as error:
    print(f"{type(error).__name__}: {error.hint}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"MissingExtraError: {install_command('otlp')}"
