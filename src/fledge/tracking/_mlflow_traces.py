"""Traces written to MLflow in bulk, with ids and times of our own: writing one twice makes no second one."""

import base64
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Span
from mlflow.entities.model_registry import PromptVersion
from mlflow.tracing.client import TracingClient


@dataclass(frozen=True)
class SpanRecord:
    """One step of a trace; times in nanoseconds since the epoch. `children` lie within it."""

    name: str
    kind: str
    start_ns: int
    end_ns: int
    inputs: Any = None
    outputs: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    children: tuple["SpanRecord", ...] = ()


@dataclass(frozen=True)
class TraceRecord:
    """One trace to write: `id` as `new_trace_id` gives, tags, and its spans."""

    id: str
    root: SpanRecord
    tags: dict[str, str] = field(default_factory=dict)
    prompt: PromptVersion | None = None


def new_trace_id() -> str:
    """A fresh id in MLflow's form, `tr-` and 32 hexadecimal digits."""
    return f"tr-{secrets.token_hex(16)}"


def token_usage(prompt: int, completion: int) -> dict[str, Any]:
    """The span attribute by which MLflow counts tokens."""
    counts = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
    return {"mlflow.chat.tokenUsage": counts}


def write_traces(
    client: MlflowClient, experiment_id: str, traces: Sequence[TraceRecord], *, run_id: str | None = None
) -> None:
    """Write traces with their spans, tags, prompt links and, if given, the link to a run."""
    if not traces:
        return
    tracing = TracingClient(client.tracking_uri)
    tracing.log_spans(experiment_id, [span for trace in traces for span in _spans(trace)])
    if run_id:
        for start in range(0, len(traces), 100):  # MLflow links at most 100 in one call
            client.link_traces_to_run([trace.id for trace in traces[start : start + 100]], run_id)
    for trace in traces:
        if trace.prompt is not None:
            tracing.link_prompt_versions_to_trace(trace_id=trace.id, prompts=[trace.prompt])


def _spans(trace: TraceRecord) -> list[Span]:
    tags = {f"mlflow.traceTag.{key}": value for key, value in trace.tags.items()}
    tags["mlflow.traceTag.mlflow.traceName"] = trace.root.name
    result: list[Span] = []

    def add(record: SpanRecord, parent: str) -> None:
        # Derived, not random: the same trace written again has the same spans.
        own = f"{len(result) + 1:08x}{trace.id[-8:]}"
        attributes = record.attributes | ({} if parent else tags)
        result.append(_span(trace.id, own, parent, record, attributes))
        for child in record.children:
            add(child, own)

    add(trace.root, "")
    return result


def _span(trace_id: str, span_id: str, parent: str, record: SpanRecord, attributes: dict[str, Any]) -> Span:
    content = {
        "mlflow.traceRequestId": trace_id,
        "mlflow.spanType": record.kind,
        "mlflow.spanInputs": record.inputs,
        "mlflow.spanOutputs": record.outputs,
        **attributes,
    }
    status = {"code": "STATUS_CODE_ERROR" if record.error else "STATUS_CODE_OK", "message": record.error}
    return Span.from_dict(
        {
            "trace_id": _encode(trace_id.removeprefix("tr-")),
            "span_id": _encode(span_id),
            "parent_span_id": _encode(parent),
            "name": record.name,
            "start_time_unix_nano": record.start_ns,
            "end_time_unix_nano": record.end_ns,
            "events": [],
            "status": status,
            "attributes": {key: json.dumps(value) for key, value in content.items() if value is not None},
        }
    )


def _encode(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()
