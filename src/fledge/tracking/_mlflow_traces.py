"""Traces written to MLflow in bulk, with ids and times of our own: writing one twice makes no second one."""

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
# A server answers one call at a time to each who asks; a database in this process gains nothing from more.
CALLS_AT_ONCE = 4


class NoTracesError(FledgeError):
    """The tracking server is too old to keep traces with spans of our own making."""


@dataclass(frozen=True)
class SpanRecord:
    """One step of a trace; times in nanoseconds since the epoch. `children` lie within it.

    `id` is 16 hexadecimal digits where the span has one already, as one that MLflow's own tracing made.
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
    """A score of a trace's answer, or the `error` that took its place. `judge` is the model that gave it, empty for a
    scorer in code."""

    name: str
    value: float | None
    rationale: str = ""
    error: str = ""
    judge: str = ""


@dataclass(frozen=True)
class TraceRecord:
    """One trace to write: `id` is `tr-` and 32 hexadecimal digits of its maker's choice.

    `prompt` is the version to link, as `name/version`. `metadata` is MLflow's own (run, model, session): with it, or
    with assessments, a trace costs twice as much to write.
    """

    id: str
    root: SpanRecord
    tags: dict[str, str] = field(default_factory=dict)
    prompt: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    assessments: tuple[AssessmentRecord, ...] = ()

    @property
    def has_head(self) -> bool:
        """Whether it has what its spans do not carry."""
        return bool(self.metadata or self.assessments)


def token_usage(prompt: int, completion: int) -> dict[str, Any]:
    """The span attribute by which MLflow counts tokens."""
    counts = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
    return {"mlflow.chat.tokenUsage": counts}


def write_traces(client: MlflowClient, experiment_id: str, traces: Sequence[TraceRecord]) -> None:
    """Write traces with their spans, tags, metadata, assessments and prompt links.

    Raises `NoTracesError` where the server has no place for them.
    """
    if not traces:
        return
    tracing = TracingClient(client.tracking_uri)

    def head(trace: TraceRecord) -> None:
        if trace.has_head:
            tracing.store.start_trace(_info(experiment_id, trace))

    def link(trace: TraceRecord) -> None:
        if trace.prompt:
            name, _, version = trace.prompt.rpartition("/")
            _link(tracing, trace.id, PromptVersion(name, int(version), ""))

    max_concurrency = CALLS_AT_ONCE if str(client.tracking_uri).startswith("http") else 1
    with ThreadPoolExecutor(max_concurrency) as pool:
        try:
            if traces[0].has_head:  # a server that takes heads but no spans shall say so before it has heads
                tracing.log_spans(experiment_id, _spans(traces[0]))
            list(pool.map(head, traces))
            tracing.log_spans(experiment_id, [span for trace in traces for span in _spans(trace)])
        except NotImplementedError as error:
            if "could not identify" in str(error):  # it is away, and MLflow would remember that it has no version
                tracing.store._get_server_version.cache_clear()
                raise MlflowException("the tracking server does not answer") from None
            raise NoTracesError("the tracking server is older than MLflow 3.4, and keeps no traces of ours") from None
        list(pool.map(link, traces))


def _link(tracing: TracingClient, trace_id: str, prompt: PromptVersion) -> None:
    """For a search by prompt; a server that has none of that shows the link by its tag."""
    try:
        tracing.store.link_prompts_to_trace(trace_id, [prompt])
    except MlflowException as error:
        if error.error_code != "ENDPOINT_NOT_FOUND":
            raise


def _info(experiment_id: str, trace: TraceRecord) -> TraceInfo:
    root = trace.root
    return TraceInfo(
        trace_id=trace.id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=root.start_ns // 1_000_000,
        execution_duration=(root.end_ns - root.start_ns) // 1_000_000,
        state=TraceState.ERROR if root.error else TraceState.OK,
        request_preview=_preview(root.inputs),
        response_preview=_preview(root.outputs),
        trace_metadata=trace.metadata,
        tags=_tags(trace),
        assessments=[_feedback(trace, assessment) for assessment in trace.assessments],
    )


def _feedback(trace: TraceRecord, assessment: AssessmentRecord) -> Feedback:
    """An id of our own, so that an assessment written again is still one."""
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


def _preview(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:PREVIEW_CHARACTERS]


def _tags(trace: TraceRecord) -> dict[str, str]:
    name, _, version = trace.prompt.rpartition("/")
    linked = {"mlflow.linkedPrompts": json.dumps([{"name": name, "version": version}])} if trace.prompt else {}
    return {"mlflow.traceName": trace.root.name, **linked, **trace.tags}


def _spans(trace: TraceRecord) -> list[Span]:
    tags = {f"mlflow.traceTag.{key}": value for key, value in _tags(trace).items()}
    result: list[Span] = []

    def add(record: SpanRecord, parent: str) -> None:
        own = record.id or _span_id(trace.id, len(result))
        attributes = record.attributes | ({} if parent else tags)
        result.append(_span(trace.id, own, parent, record, attributes))
        for child in record.children:
            add(child, own)

    add(trace.root, "")
    return result


def root_span_id(trace_id: str) -> str:
    """The id that the first span of a trace has."""
    return _span_id(trace_id, 0)


def _span_id(trace_id: str, place: int) -> str:
    """Derived, not random: the same trace written again has the same spans."""
    return f"{place + 1:08x}{trace_id[-8:]}"


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
