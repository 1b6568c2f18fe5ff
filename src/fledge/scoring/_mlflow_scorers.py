"""fledge's scorers as MLflow scorers, for `mlflow.genai.evaluate`."""

from collections.abc import Callable
from typing import Any

from mlflow.entities import Feedback
from mlflow.genai.scorers import Scorer as MlflowScorer
from mlflow.genai.scorers import scorer

from fledge.scoring.catalogue import choose_scorers
from fledge.scoring.scorer import Response, Scorer

REFERENCES = ("expected_response", "reference", "expected_output")


def mlflow_scorers(*names: str) -> list[MlflowScorer]:
    """Return the named scorers, or the default ones, for `mlflow.genai.evaluate(scorers=...)`.

    The reference is `expectations["expected_response"]` (or `reference`), other expectations are columns; the question
    is `inputs["question"]`. A scorer whose inputs are missing returns no score. Raises `InputError` for an unknown
    name.
    """
    return [scorer(_wrap(item), name=item.name) for item in choose_scorers(names)]


def _wrap(item: Scorer) -> Callable[..., Any]:
    def judged(inputs: Any = None, outputs: Any = None, expectations: Any = None, trace: Any = None) -> Any:
        response = _to_response(inputs, outputs, expectations or {}, trace)
        if not item.applies(response):
            return []
        found = item(response)
        return [] if found is None else Feedback(value=found)

    judged.__name__ = item.name
    judged.__doc__ = item.function.__doc__
    return judged


def _to_response(inputs: Any, outputs: Any, expectations: dict[str, Any], trace: Any) -> Response:
    reference = next((expectations[name] for name in REFERENCES if expectations.get(name) is not None), None)
    columns = {name: str(value) for name, value in expectations.items() if name not in REFERENCES}
    usage = getattr(getattr(trace, "info", None), "token_usage", None) or {}
    milliseconds = getattr(getattr(trace, "info", None), "execution_duration", None)
    return Response(
        answer=outputs if isinstance(outputs, str) else str(outputs or ""),
        question=str(inputs.get("question", "")) if isinstance(inputs, dict) else str(inputs or ""),
        reference=None if reference is None else str(reference),
        columns=columns,
        prompt_tokens=usage.get("input_tokens"),
        completion_tokens=usage.get("output_tokens"),
        latency_s=None if milliseconds is None else milliseconds / 1000,
    )
