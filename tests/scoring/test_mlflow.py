"""fledge's scorers in MLflow's own evaluation."""

import mlflow
import pytest

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.scoring._mlflow_scorers import mlflow_scorers
from fledge.tracking._mlflow_connection import connect


@pytest.mark.slow
def test_scorers_in_mlflow_evaluate(workspace: Workspace) -> None:
    connect(workspace.tracking)
    mlflow.set_experiment("scored")
    data = [
        {
            "inputs": {"question": "What is the capital of France?"},
            "outputs": "It is Paris.",
            "expectations": {"expected_response": "Paris", "contains": "paris"},
        },
        {"inputs": {"question": "And of Italy?"}, "outputs": "Milan", "expectations": {"expected_response": "Rome"}},
    ]
    result = mlflow.genai.evaluate(data=data, scorers=mlflow_scorers("token_f1", "contains", "response_length"))
    assert result.metrics["token_f1/mean"] == pytest.approx((2 * (1 / 3) / (1 / 3 + 1) + 0) / 2)
    assert result.metrics["response_length/mean"] == 2.0
    assert result.metrics["contains/mean"] == 1.0  # the other row asserts nothing


def test_scorers_are_chosen_by_name() -> None:
    assert {item.name for item in mlflow_scorers()} >= {"token_f1", "chrf", "empty"}
    with pytest.raises(InputError, match="unknown scorer 'magic'"):
        mlflow_scorers("magic")
