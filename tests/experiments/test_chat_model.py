"""An experiment on a model with a chat template."""

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fledge.core.settings import Workspace
from fledge.engines.engine import Engine
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.experiments.run import run_experiment


@pytest.mark.slow
def test_a_chat_model_is_asked_through_its_chat_template(
    workspace: Workspace, instruct_model: Path, instruct_engine: Engine
) -> None:
    config = ExperimentConfig(
        tracking_uri=workspace.tracking_uri,
        state=workspace.state,
        model=str(instruct_model),
        limit=8,
        scorers=("token_f1", "empty"),
    )
    arms = (
        ArmConfig("question", "chat"),
        ArmConfig("question", "text", format="completion"),
        ArmConfig("simple", "form", format="completion"),
        *(ArmConfig(name) for name in ("conversational", "expert", "educational")),
    )
    result = run_experiment(replace(config, arms=arms), engine=instruct_engine)
    found = {arm.name: arm for arm in result.arms}
    assert [arm.format for arm in result.arms] == ["chat", "completion", "completion", "chat", "chat", "chat"]
    assert len({arm.digest for arm in result.arms}) == len(arms)
    # The prompt `simple` writes the same text as the model's template.
    assert found["chat"].metrics["token_f1"] == found["form"].metrics["token_f1"] > 0.9
    assert found["text"].metrics["token_f1"] < 0.5
    assert [arm.metrics["empty"] for arm in result.arms if arm.format == "chat"] == [0.0] * 4

    client = MlflowClient(workspace.tracking_uri)
    experiment = client.get_run(result.run_id).info.experiment_id
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    recorded = {run.info.run_name: run.data.params["format"] for run in nested}
    assert recorded == {arm.name: arm.format for arm in result.arms}
    for trace in client.search_traces(locations=[experiment], max_results=500):
        attributes = trace.data.spans[1].attributes
        assert attributes["fledge.format"] == recorded[trace.info.tags["fledge.arm"]]
