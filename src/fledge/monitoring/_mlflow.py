"""Outbox records as MLflow traces."""

from collections.abc import Sequence

from mlflow.exceptions import MlflowException

from fledge.core.errors import FledgeError
from fledge.core.messages import OutboxRecord
from fledge.tracking._mlflow import connect, experiment_id
from fledge.tracking._mlflow_traces import SpanRecord, TraceRecord, token_usage, write_traces


class TraceShipper:
    """Writes records to one experiment. It connects at the first call: a tracker that is down only delays."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        self._tracking_uri = tracking_uri
        self._experiment = experiment

    def __call__(self, records: Sequence[OutboxRecord]) -> None:
        """Ship `records`; one shipped twice makes no second trace. Raises `FledgeError` if MLflow refuses them."""
        client = connect(self._tracking_uri)
        try:
            traces = [self._trace(record) for record in records]
            write_traces(client, experiment_id(client, self._experiment), traces)
        except MlflowException as error:
            raise FledgeError(f"MLflow did not take the traces: {str(error).splitlines()[0]}") from None

    def _trace(self, record: OutboxRecord) -> TraceRecord:
        seconds = (record.ended_ns - record.started_ns) / 1e9
        attributes = {
            **token_usage(record.prompt_tokens, record.completion_tokens),
            "fledge.ttft_s": (record.first_token_ns - record.started_ns) / 1e9 if record.first_token_ns else None,
            "fledge.tokens_per_s": record.completion_tokens / seconds if seconds else None,
            "fledge.finish_reason": record.finish_reason or None,
        }
        asked = record.prompt_text or record.inputs
        times = (record.started_ns, record.ended_ns)
        spans = [SpanRecord("generate", "LLM", *times, asked, record.output, attributes, record.error)]
        if record.prompt:
            filled = (record.started_ns, record.started_ns)
            spans.insert(0, SpanRecord("prompt", "PARSER", *filled, record.inputs, record.prompt_text))
        status = {"fledge.status": record.status}
        root = SpanRecord(
            record.route, "CHAIN", *times, record.inputs, record.output, status, record.error, tuple(spans)
        )
        tags = {
            "fledge.request_id": record.request_id,
            "fledge.release": f"{record.release}/{record.version}",
            "fledge.status": str(record.status),
            **record.tags,
        }
        return TraceRecord(record.trace_id, root, tags, record.prompt)


def count_traces(tracking_uri: str, experiment: str, request_ids: Sequence[str]) -> int:
    """How many of the requests have their trace in MLflow."""
    client = connect(tracking_uri)
    wanted = {f"tr-{identity}" for identity in request_ids}
    found = client.search_traces(locations=[experiment_id(client, experiment)], max_results=500, include_spans=False)
    return len(wanted & {trace.info.trace_id for trace in found})
