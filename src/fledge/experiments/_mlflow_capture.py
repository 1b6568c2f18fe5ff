"""What MLflow's own tracing sees inside a chain, as part of the trace that we write of its cell."""

import json
from collections.abc import Callable
from typing import Any

from mlflow.entities import Span, TraceLocation
from mlflow.langchain.langchain_tracer import MlflowLangchainTracer
from mlflow.tracing import set_tracing_context_from_http_request_headers
from mlflow.tracing.trace_manager import InMemoryTraceManager

from fledge.experiments.askers import Traced
from fledge.experiments.cells import Cell, trace_id
from fledge.tracking._mlflow_traces import root_span_id


def capture_traces(run_id: str, experiment_id: str) -> Traced:
    """A function that runs the chain of a cell, and returns what that gave and the spans that ended meanwhile.

    To MLflow's tracing the chain is the remote part of a trace that began elsewhere: ours. So what
    `mlflow.langchain.autolog`, `@mlflow.trace` and the like see nests under its cell, and what MLflow sends by itself,
    while a long chain still runs, is the same spans of the same trace.
    """
    manager = InMemoryTraceManager.get_instance()

    def run(cell: Cell, work: Callable[[], Any]) -> tuple[Any, list[dict[str, Any]]]:
        trace = trace_id(run_id, cell.key, cell.attempt)
        number, root = trace.removeprefix("tr-"), root_span_id(trace)
        with set_tracing_context_from_http_request_headers({"traceparent": f"00-{number}-{root}-01"}):
            with manager.get_trace(trace) as entry:
                if entry is not None:
                    entry.info.trace_location = TraceLocation.from_experiment_id(experiment_id)
            result = work()
            found = manager.pop_trace(int(number, 16))
        spans = found.trace.data.spans if found else []
        return result, [_plain(span, root) for span in spans if span.end_time_ns]

    return run


def tracer() -> MlflowLangchainTracer:
    """LangChain's callback by which each step of a chain becomes a span."""
    return MlflowLangchainTracer()


def _plain(span: Span, root: str) -> dict[str, Any]:
    return {
        "id": span.span_id,
        "parent": "" if span.parent_id == root else span.parent_id,
        "name": span.name,
        "kind": span.span_type,
        "start_ns": span.start_time_ns,
        "end_ns": span.end_time_ns,
        "inputs": _jsonable(span.inputs),
        "outputs": _jsonable(span.outputs),
        "error": span.status.description or "error" if span.status.status_code.value == "ERROR" else "",
    }


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
