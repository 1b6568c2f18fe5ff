"""What MLflow's own tracing sees inside a chain, as part of the trace that we write of its cell."""

import json
from collections.abc import Callable
from typing import Any

from mlflow.entities import Span
from mlflow.langchain.langchain_tracer import MlflowLangchainTracer
from mlflow.tracing.fluent import start_span_no_context
from mlflow.tracing.provider import detach_span_from_context, set_span_in_context
from mlflow.tracing.trace_manager import InMemoryTraceManager


def captured(experiment_id: str) -> Callable[[Callable[[], Any]], tuple[Any, list[dict[str, Any]]]]:
    """A function that runs another within a trace, and returns what that gave and the spans that ended meanwhile.

    So `mlflow.langchain.autolog`, `@mlflow.trace` and the like nest under the cell that they belong to, and are not
    exported a second time, one by one.
    """

    def run(work: Callable[[], Any]) -> tuple[Any, list[dict[str, Any]]]:
        root = start_span_no_context("cell", experiment_id=experiment_id)
        context = getattr(getattr(root, "_span", None), "context", None)
        if context is None:  # tracing is turned off
            return work(), []
        token = set_span_in_context(root)
        try:
            result = work()
        finally:
            detach_span_from_context(token)
            found = InMemoryTraceManager.get_instance().pop_trace(context.trace_id)
        spans = found.trace.data.spans if found else []
        return result, [_plain(span, root.span_id) for span in spans if span.end_time_ns and span.parent_id]

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
