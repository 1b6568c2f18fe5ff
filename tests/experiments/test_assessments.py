"""Scores as assessments of MLflow traces, read back with MLflow's client."""

from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from fledge.core.settings import Workspace
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments._mlflow_experiments import load_table
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import resume_experiment, run_experiment
from fledge.scoring.catalogue import scorer
from fledge.scoring.judge import JudgeConfig
from tests.experiments.tracking_server import TrackingServer
from tests.scoring.judge_server import JudgeServer, serve


def _traces(uri: str, run_id: str) -> list[Any]:
    client = MlflowClient(uri)
    return list(client.search_traces(locations=[client.get_run(run_id).info.experiment_id], max_results=500))


def _config(workspace: Workspace, **changes: Any) -> ExperimentConfig:
    where = {"tracking_uri": workspace.tracking_uri, "state": workspace.state}
    return ExperimentConfig(**{**where, "engine": "scripted", "limit": 3, "prompts": ("simple",), **changes})


def test_recording_again_does_not_duplicate_assessments(workspace: Workspace) -> None:
    def failing(answer: str) -> float:
        raise ValueError(f"cannot read {answer}\0")

    scorer(failing)
    config = _config(workspace, scorers=("token_f1", "exact_match", "failing"))
    result = run_experiment(config, engine=ScriptedEngine(lambda _: "yes"))
    table = load_table(MlflowClient(workspace.tracking), result.run_id).set_index("trace_id")
    for _ in range(2):
        traces = _traces(workspace.tracking, result.run_id)
        assert len(traces) == 3
        for trace in traces:
            found = {item.name: item for item in trace.info.assessments}
            assert len(trace.info.assessments) == len(found) == 3
            row = table.loc[trace.info.trace_id]
            assert [found[name].value for name in ("token_f1", "exact_match")] == [row["token_f1"], row["exact_match"]]
            assert found["token_f1"].source.source_type == "CODE"
            failed = found["failing"]
            assert (failed.value, failed.error.error_message) == (None, "ValueError: cannot read yes\ufffd")
            assert found["token_f1"].run_id == trace.info.trace_metadata["mlflow.sourceRun"]
        (path,) = (config.state_dir / "experiments").glob("*/sent.json")
        path.unlink()  # as after a kill before the state was saved
        path.with_name("finished.json").unlink()
        assert resume_experiment("last", workspace=workspace).run_id == result.run_id
    mlflow.set_tracking_uri(workspace.tracking)
    where = [trace.info.experiment_id for trace in traces[:1]]
    assert len(mlflow.search_traces(locations=where, filter_string="feedback.exact_match = '0.0'")) == 3


def test_grade_is_recorded_with_judge_and_rationale(workspace: Workspace) -> None:
    def grade(_: str) -> dict[str, Any]:
        return {"result": 4, "rationale": "good enough"}

    with serve(JudgeServer(grade)) as server:
        judging = JudgeConfig(judge=server.url)
        result = run_experiment(_config(workspace, judging=judging), engine=ScriptedEngine(lambda _: "yes"))
    for trace in _traces(workspace.tracking, result.run_id):
        (judge,) = [item for item in trace.info.assessments if item.name == "judge"]
        assert (judge.value, judge.rationale) == (0.75, "good enough")
        assert (judge.source.source_type, judge.source.source_id) == ("LLM_JUDGE", server.url)


@pytest.mark.slow
def test_assessments_arrive_through_a_tracking_server(workspace: Workspace, tmp_path: Any, port: int) -> None:
    server = TrackingServer(tmp_path, port)
    try:
        config = _config(workspace, tracking_uri=server.url, scorers=("token_f1", "empty"))
        result = run_experiment(config, engine=ScriptedEngine(lambda _: "yes"))
        traces = _traces(server.url, result.run_id)
    finally:
        server.close()
    assert [sorted(item.name for item in trace.info.assessments) for trace in traces] == [["empty", "token_f1"]] * 3
