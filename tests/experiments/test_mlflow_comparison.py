"""Our comparison agrees with `mlflow.genai.compare_evaluations`, which MLflow has from 3.18 on."""

from typing import Any

import mlflow
import mlflow.genai
import numpy as np
import pandas as pd
import pytest
from mlflow.genai.scorers import scorer

from fledge.comparison.options import CompareOptions
from fledge.comparison.verdict import compare_scores
from fledge.core.settings import Workspace
from fledge.tracking._mlflow_connection import connect

compare_evaluations = getattr(mlflow.genai, "compare_evaluations", None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compare_evaluations is None, reason="this MLflow has no compare_evaluations (from 3.18 on)"),
]


def test_comparison_of_two_arms_agrees_with_mlflow(workspace: Workspace) -> None:
    connect(workspace.tracking)
    rng = np.random.default_rng(0)
    scores = {"base": rng.normal(0.5, 0.1, 24), "other": rng.normal(0.55, 0.1, 24)}

    @scorer  # type: ignore[untyped-decorator]
    def quality(outputs: Any) -> float:
        return float(outputs)

    @scorer  # type: ignore[untyped-decorator]
    def right(outputs: Any) -> bool:
        return float(outputs) > 0.5

    runs = {
        arm: mlflow.genai.evaluate(
            data=[{"inputs": {"question": str(q)}, "outputs": str(value)} for q, value in enumerate(values)],
            scorers=[quality, right],
        ).run_id
        for arm, values in scores.items()
    }
    assert compare_evaluations is not None
    theirs = compare_evaluations(runs["other"], runs["base"]).scorers
    table = pd.DataFrame(
        [
            {"question": q, "arm": arm, "quality": value, "right": float(value > 0.5)}
            for arm, values in scores.items()
            for q, value in enumerate(values)
        ]
    )
    for metric, test in (("quality", "wilcoxon"), ("right", "mcnemar")):
        ours = compare_scores(table, metric, CompareOptions(test=test)).pairs[0]  # type: ignore[arg-type]
        assert ours.difference == pytest.approx(theirs[metric].diff)
        assert ours.p == pytest.approx(theirs[metric].p_value)
        assert ours.ties == theirs[metric].ties
