"""Write traces to MLflow in bulk, with caller-supplied ids and times, so that writing a trace twice is idempotent."""

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    AssessmentError,
    AssessmentSource,
    AssessmentSourceType,
    Feedback,
    Span,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient

from fledge.core.errors import FledgeError

PREVIEW_CHARACTERS = 1000
# Parallel calls help with a server only, not with a local database.
MAX_CONCURRENCY = 4


class NoTracesError(FledgeError):
    """The tracking server is too old to accept traces with client-supplied spans."""


@dataclass(frozen=True)
class SpanRecord:
    """One span of a trace with its `children`; times in nanoseconds since the epoch.

    `id` is 16 hexadecimal digits if the span already has one, as from MLflow's own tracing.
    """

    name: str
    kind: str
    start_ns: int
    end_ns: int
    inputs: Any = None
    outputs: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    children: tuple["SpanRecord", ...] = ()
    id: str = ""


@dataclass(frozen=True)
class AssessmentRecord:
    """A score of a trace's answer, or its `error`. `judge` is the judge model, empty for a scorer in code."""

    name: str
    value: float | None
    rationale: str = ""
    error: str = ""
    judge: str = ""


@dataclass(frozen=True)
class TraceRecord:
    """A trace to write: `id` is `tr-` and 32 hexadecimal digits chosen by the caller.

    `prompt` is the version to link, as `name/version`. `metadata` is MLflow's (run, model, session). With metadata or
    assessments a trace takes twice as long to write.
    """

    id: str
    root: SpanRecord
    tags: dict[str, str] = field(default_factory=dict)
    prompt: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    assessments: tuple[AssessmentRecord, ...] = ()

    @property
    def has_head(self) -> bool:
        """Whether it has data that spans cannot carry."""
        return bool(self.metadata or self.assessments)


def token_usage(prompt: int, completion: int) -> dict[str, Any]:
    """Return the span attribute from which MLflow reads token counts."""
    counts = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
    return {"mlflow.chat.tokenUsage": counts}


def write_traces(client: MlflowClient, experiment_id: str, traces: Sequence[TraceRecord]) -> None:
    """Write traces with their spans, tags, metadata, assessments and prompt links.

    Raises `NoTracesError` if the server does not support them.
    """
    if not traces:
        return
    tracing = TracingClient(client.tracking_uri)

    def head(trace: TraceRecord) -> None:
        if trace.has_head:
            tracing.store.start_trace(_build_info(experiment_id, trace))

    def link(trace: TraceRecord) -> None:
        if trace.prompt:
            name, _, version = trace.prompt.rpartition("/")
            _link_prompt(tracing, trace.id, PromptVersion(name, int(version), ""))

    max_concurrency = MAX_CONCURRENCY if str(client.tracking_uri).startswith("http") else 1
    with ThreadPoolExecutor(max_concurrency) as pool:
        try:
            if traces[0].has_head:  # fail before writing heads if the server does not support spans
                tracing.log_spans(experiment_id, _build_spans(traces[0]))
            list(pool.map(head, traces))
            tracing.log_spans(experiment_id, [span for trace in traces for span in _build_spans(trace)])
        except NotImplementedError as error:
            if "could not identify" in str(error):  # unreachable, and MLflow would cache the missing version
                tracing.store._get_server_version.cache_clear()
                raise MlflowException("the tracking server does not answer") from None
            raise NoTracesError(
                "the tracking server is older than MLflow 3.4 and does not accept these traces"
            ) from None
        list(pool.map(link, traces))


def _link_prompt(tracing: TracingClient, trace_id: str, prompt: PromptVersion) -> None:
    """Link a prompt for search by prompt; servers without this API show the link from the trace tag."""
    try:
        tracing.store.link_prompts_to_trace(trace_id, [prompt])
    except MlflowException as error:
        if error.error_code != "ENDPOINT_NOT_FOUND":
            raise


def _build_info(experiment_id: str, trace: TraceRecord) -> TraceInfo:
    root = trace.root
    return TraceInfo(
        trace_id=trace.id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=root.start_ns // 1_000_000,
        execution_duration=(root.end_ns - root.start_ns) // 1_000_000,
        state=TraceState.ERROR if root.error else TraceState.OK,
        request_preview=_truncate(root.inputs),
        response_preview=_truncate(root.outputs),
        trace_metadata=trace.metadata,
        tags=_build_tags(trace),
        assessments=[_build_feedback(trace, assessment) for assessment in trace.assessments],
    )


def _build_feedback(trace: TraceRecord, assessment: AssessmentRecord) -> Feedback:
    """Build feedback with a derived id, so that writing it twice is idempotent."""
    kind = AssessmentSourceType.LLM_JUDGE if assessment.judge else AssessmentSourceType.CODE
    run_id = trace.metadata.get("mlflow.sourceRun")
    feedback = Feedback(
        name=assessment.name,
        value=assessment.value,
        error=AssessmentError("SCORER_ERROR", assessment.error) if assessment.error else None,
        source=AssessmentSource(kind, assessment.judge or assessment.name),
        trace_id=trace.id,
        metadata={"mlflow.assessment.sourceRunId": run_id} if run_id else None,
        create_time_ms=trace.root.end_ns // 1_000_000,
        last_update_time_ms=trace.root.end_ns // 1_000_000,
        rationale=assessment.rationale or None,
    )
    feedback.assessment_id = f"a-{hashlib.sha256(f'{trace.id}:{assessment.name}'.encode()).hexdigest()[:32]}"
    return feedback


def _truncate(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:PREVIEW_CHARACTERS]


def _build_tags(trace: TraceRecord) -> dict[str, str]:
    name, _, version = trace.prompt.rpartition("/")
    linked = {"mlflow.linkedPrompts": json.dumps([{"name": name, "version": version}])} if trace.prompt else {}
    return {"mlflow.traceName": trace.root.name, **linked, **trace.tags}


def _build_spans(trace: TraceRecord) -> list[Span]:
    tags = {f"mlflow.traceTag.{key}": value for key, value in _build_tags(trace).items()}
    result: list[Span] = []

    def add(record: SpanRecord, parent: str) -> None:
        own = record.id or _derive_span_id(trace.id, len(result))
        attributes = record.attributes | ({} if parent else tags)
        result.append(_build_span(trace.id, own, parent, record, attributes))
        for child in record.children:
            add(child, own)

    add(trace.root, "")
    return result


def root_span_id(trace_id: str) -> str:
    """Return the id of the first span of a trace."""
    return _derive_span_id(trace_id, 0)


def _derive_span_id(trace_id: str, place: int) -> str:
    """Derive a span id, so that a trace written twice has the same spans."""
    return f"{place + 1:08x}{trace_id[-8:]}"


def _build_span(trace_id: str, span_id: str, parent: str, record: SpanRecord, attributes: dict[str, Any]) -> Span:
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
