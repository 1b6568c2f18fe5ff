"""Capture the spans that MLflow's own tracing records inside a chain, for the trace of its cell."""

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
    """Return a function that runs the chain of a cell, and returns its result and the recorded spans.

    MLflow treats the chain as a remote part of the cell's trace. So the spans of `mlflow.langchain.autolog` and
    `@mlflow.trace` are nested in the cell, and those that MLflow sends itself during a long chain join the same trace.
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
        return result, [_to_dict(span, root) for span in spans if span.end_time_ns]

    return run


def create_tracer() -> MlflowLangchainTracer:
    """Return the LangChain callback that records each step of a chain as a span."""
    return MlflowLangchainTracer()


def _to_dict(span: Span, root: str) -> dict[str, Any]:
    return {
        "id": span.span_id,
        "parent": "" if span.parent_id == root else span.parent_id,
        "name": span.name,
        "kind": span.span_type,
        "start_ns": span.start_time_ns,
        "end_ns": span.end_time_ns,
        "inputs": _to_jsonable(span.inputs),
        "outputs": _to_jsonable(span.outputs),
        "error": span.status.description or "error" if span.status.status_code.value == "ERROR" else "",
    }


def _to_jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
