"""Outbox records as MLflow traces, and feedback as their assessments."""

from collections.abc import Sequence
from itertools import groupby

from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback
from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient

from fledge.core.errors import FledgeError
from fledge.core.messages import Answered, FeedbackRecord, OutboxRecord
from fledge.serving.outbox_reader import RecordRefusedError
from fledge.tracking._mlflow_connection import connect, experiment_id
from fledge.tracking._mlflow_traces import SpanRecord, TraceRecord, token_usage, write_traces

FEEDBACK_KEY = "fledge.feedback_id"
SOURCE_CHARACTERS = 250  # of MLflow's own table
REFUSALS = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "REQUEST_LIMIT_EXCEEDED")


def trace_experiment(name: str) -> str:
    """Return the name of the MLflow experiment with the traces of a served model."""
    return f"{name}-endpoint"


class TraceShipper:
    """Writes records to one experiment per model, or to that of `default_name` for requests refused before routing.
    It connects at the first call, so an unreachable server only delays records."""

    def __init__(self, tracking_uri: str, default_name: str) -> None:
        self._tracking_uri = tracking_uri
        self._default = default_name

    def __call__(self, records: Sequence[OutboxRecord | FeedbackRecord]) -> None:
        """Ship `records`; a record shipped twice makes one trace. Raises `FledgeError` if MLflow refuses them."""
        client = connect(self._tracking_uri)
        requests = [record for record in records if isinstance(record, OutboxRecord)]
        try:
            for name, mine in groupby(sorted(requests, key=self._name), key=self._name):
                write_traces(client, experiment_id(client, trace_experiment(name)), list(map(_build_trace, mine)))
            for record in records:
                if isinstance(record, FeedbackRecord):
                    _log_feedback(client, record)
        except MlflowException as error:
            kind = RecordRefusedError if error.error_code in REFUSALS else FledgeError
            raise kind(f"MLflow refused the traces: {str(error).splitlines()[0]}") from None

    def _name(self, record: OutboxRecord) -> str:
        return record.release or self._default


def _build_trace(record: OutboxRecord) -> TraceRecord:
    first, seconds = record.first_token_ns, (record.ended_ns - record.started_ns) / 1e9
    about = {
        "fledge.status": record.status,
        "fledge.arm": record.arm or None,
        "fledge.release": f"{record.release}/{record.version}" if record.release else None,
        "fledge.ttft_s": (first - record.started_ns) / 1e9 if first else None,
        "fledge.tokens_per_s": record.completion_tokens / seconds if seconds else None,
        **(token_usage(record.prompt_tokens, record.completion_tokens) if record.answers else {}),
    }
    failed = record.error if record.status >= 400 else ""
    outputs = [answer.output for answer in record.answers]
    root = SpanRecord(
        record.route,
        "CHAIN",
        record.started_ns,
        record.ended_ns,
        record.inputs,
        outputs[0] if len(outputs) == 1 else outputs,
        about,
        failed,
        tuple(_build_steps(record)),
    )
    tags = {
        "fledge.request_id": record.request_id,
        "fledge.status": str(record.status),
        **({"fledge.release": f"{record.release}/{record.version}"} if record.release else {}),
        **({"fledge.arm": record.arm} if record.arm else {}),
        **record.tags,
    }
    return TraceRecord(record.trace_id, root, tags, record.prompt)


def _build_steps(record: OutboxRecord) -> list[SpanRecord]:
    rows = record.inputs if isinstance(record.inputs, list) else []
    steps = []
    for number, answer in enumerate(record.answers):
        if record.prompt:
            moment = (record.started_ns, record.started_ns)
            row = rows[number] if number < len(rows) else record.inputs
            steps.append(SpanRecord("prompt", "PARSER", *moment, row, answer.prompt_text))
        steps.append(_build_generate_span(answer, record))
    return steps


def _build_generate_span(answer: Answered, record: OutboxRecord) -> SpanRecord:
    first = answer.first_token_ns
    attributes = {
        **token_usage(answer.prompt_tokens, answer.completion_tokens),
        "fledge.ttft_s": (first - answer.started_ns) / 1e9 if first else None,
        "fledge.finish_reason": answer.finish_reason or None,
        **{f"fledge.{name}": value for name, value in record.settings.items()},
    }
    failed = record.error if record.status >= 400 and not answer.finish_reason else ""
    times = (answer.started_ns, answer.ended_ns)
    return SpanRecord("generate", "LLM", *times, answer.prompt_text, answer.output, attributes, failed)


def _log_feedback(client: MlflowClient, record: FeedbackRecord) -> None:
    """Log feedback on its trace once; skip it if MLflow does not have the trace."""
    tracing = TracingClient(client.tracking_uri)
    trace_id = f"tr-{record.request_id}"
    try:
        known = tracing.get_trace(trace_id).info.assessments
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            return
        raise
    if any((item.metadata or {}).get(FEEDBACK_KEY) == record.feedback_id for item in known):
        return
    source = AssessmentSource(source_type="HUMAN", source_id=_strip_nul(record.user or "anonymous")[:SOURCE_CHARACTERS])
    feedback = Feedback(
        name=record.name,
        value=record.value,
        source=source,
        rationale=_strip_nul(record.comment) or None,
        trace_id=trace_id,
        metadata={FEEDBACK_KEY: record.feedback_id},
    )
    tracing.log_assessment(trace_id, feedback)


def _strip_nul(text: str) -> str:
    """Remove NUL characters, which PostgreSQL cannot store."""
    return text.replace("\0", "")


def count_traces(tracking_uri: str, name: str, request_ids: Sequence[str]) -> int:
    """Return how many of these requests to a model have a trace in MLflow."""
    client = connect(tracking_uri)
    wanted = {f"tr-{identity}" for identity in request_ids}
    where = [experiment_id(client, trace_experiment(name))]
    found = client.search_traces(locations=where, max_results=500, include_spans=False)
    return len(wanted & {trace.info.trace_id for trace in found})
