"""Experiments with a judge, on a real server that breaks some of its answers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace, load
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments._mlflow_experiments import load_table
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.evaluation import evaluate
from fledge.experiments.run import resume_experiment, run_experiment
from fledge.registry.release import promote, register
from fledge.scoring.judge import JudgeConfig
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import serve as serve_release
from fledge.supervision.endpoints import stop
from tests.conftest import PATIENCE_S, Run
from tests.scoring.judge_server import JudgeServer, serve


def _grade(_: str) -> dict[str, Any]:
    return {"result": 4, "rationale": "good enough"}


def test_grades_become_scores_and_missing_grades_are_counted(workspace: Workspace) -> None:
    lines: list[str] = []
    with serve(JudgeServer(_grade, broken=0.4, seed=2)) as server:
        settings = {
            "limit": 80,
            "engine": "scripted",
            "judge": server.url,
            "judge_retries": 1,
            "tracking_uri": workspace.tracking_uri,
        }
        found = evaluate("embedded", "judge>=0.5", settings=settings, engine=ScriptedEngine(), say=lines.append)
    table = load_table(MlflowClient(workspace.tracking_uri), found.run_id)
    grades = table["judge"].dropna()
    missing = len(table) - len(grades)
    broken = sum(count for kind, count in server.broke.items() if kind)
    assert set(grades) == {0.75}
    assert found.metrics["judge"] == 0.75
    assert found.passed
    assert 0 < missing < 40
    assert len(server.bodies) == 80 + broken - missing
    (report,) = [text for text in lines if text.startswith("the judge was asked")]
    assert f"{len(server.bodies)} times" in report
    assert f"{missing} judgements are missing" in report


def test_judge_settings_are_recorded_and_read_back(workspace: Workspace, tmp_path: Path) -> None:
    config = ExperimentConfig.load({"judge": "http://127.0.0.1:9/v1#x", "judge_retries": 5})
    assert config.judging.judge_retries == 5
    assert ExperimentConfig.load(config.as_dict()).judging == config.judging
    assert config.as_params()["judge"] == "http://127.0.0.1:9/v1#x"


@pytest.mark.parametrize("bad", [{"judge": "gpt-4"}, {"judge_timeout": 0}])
def test_invalid_judge_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"judge"):
        ExperimentConfig.load(bad)


def test_warning_if_a_model_judges_itself(workspace: Workspace) -> None:
    lines: list[str] = []
    with serve(JudgeServer(_grade)) as server:
        settings = {"limit": 2, "judge": server.url, "tracking_uri": workspace.tracking_uri}
        evaluate(server.url, settings=settings, engine=ScriptedEngine(), say=lines.append)
    assert any("is the model being judged" in text for text in lines)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["scripted", "auto"])
def test_unusable_judgements_are_counted_and_not_scored(workspace: Workspace, port: int, engine: str) -> None:
    """Neither an echo nor the small embedded model can judge."""
    where = {"tracking_uri": workspace.tracking_uri, "state": workspace.state}
    register(ExperimentConfig.load(where), name="mine", prompt="simple")
    promote("mine", 1, force=True, reason="test", workspace=workspace)
    config = load(ServeConfig, {**where, "port": port, "engine": engine}).value
    endpoint = serve_release("mine@champion", config=config)
    try:
        settings = {"limit": 6, "judge": f"{endpoint.url}/v1#mine", "judge_retries": 1, **where}
        found = evaluate("embedded", "judge>=0.5", settings=settings, engine=ScriptedEngine())
    finally:
        stop(workspace=config)
    assert found.judge is not None
    assert found.judge.failed == 6
    assert "judge" not in found.metrics
    assert not found.passed
    assert found.gates[0].value is None
    run = MlflowClient(workspace.tracking_uri).get_run(found.run_id)
    assert (run.data.metrics["judge_failed"], run.data.metrics["judge_asked"]) == (6, found.judge.asked)


def test_missing_grades_are_added_on_resume_without_asking_again(workspace: Workspace) -> None:
    asked: list[str] = []

    def script(prompt: str) -> str:
        asked.append(prompt)
        return f"An answer to {prompt}"

    with serve(JudgeServer(_grade, broken=1.0, kinds=("prose",))) as server:
        config = ExperimentConfig(
            limit=8,
            prompts=("simple",),
            judging=JudgeConfig(judge=server.url, judge_retries=0),
            tracking_uri=workspace.tracking_uri,
            state=workspace.state,
        )
        first = run_experiment(config, engine=ScriptedEngine(script))
        assert "judge" not in first.arms[0].metrics
        server.broken = 0.0
        again = resume_experiment(first.run_id, engine=ScriptedEngine(script), workspace=workspace)
    assert len(asked) == 8
    assert again.arms[0].metrics["judge"] > 0
    client = MlflowClient(workspace.tracking_uri)
    assert len(load_table(client, first.run_id)["judge"].dropna()) == 8
    where = [client.get_run(first.run_id).info.experiment_id]
    traces = client.search_traces(locations=where, max_results=100)
    scores = [span.outputs for trace in traces for span in trace.data.spans if span.name == "score"]
    assert [("judge" in found) for found in scores] == [True] * 8


@pytest.mark.slow
def test_ctrl_c_stops_the_judge_and_resume_grades_the_rest(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    with serve(JudgeServer(_grade, hang_s=1.0)) as server:
        flags = ("--engine", "scripted", "--prompts", "simple", "--limit", "64", "--judge", server.url)
        command = [sys.executable, "-m", "fledge", "experiment", *flags, "--judge-concurrency", "2", "--json"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        running = subprocess.Popen(command, cwd=tmp_path, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while len(server.bodies) < 5:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 130
        assert len(server.bodies) < 64
        run_id = re.search(r"--resume ([0-9a-f]{8})", stderr.decode())
        assert run_id is not None
        server.hang_s = 0.0
        done = fledge("experiment", "--resume", run_id[1], "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["judge"]["asked"] == len(server.bodies)
    assert len(load_table(MlflowClient(workspace.tracking_uri), found["run_id"])["judge"].dropna()) == 64


def test_api_key_is_not_recorded(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-99\r\n")  # as read from a Windows file
    with serve(JudgeServer(_grade)) as server:
        settings = {"limit": 2, "judge": server.url, "tracking_uri": workspace.tracking_uri}
        found = evaluate("embedded", settings=settings, engine=ScriptedEngine())
        assert found.metrics["judge"] == 0.75
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(contents) > 10
    assert not any(b"sk-secret-99" in content for content in contents)


def test_api_key_with_a_line_break_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a\nb")
    with serve(JudgeServer(_grade)) as server:
        settings = {"limit": 2, "judge": server.url, "tracking_uri": workspace.tracking_uri}
        with pytest.raises(InputError, match="OPENAI_API_KEY contains an invalid character"):
            evaluate("embedded", settings=settings, engine=ScriptedEngine())
    client = MlflowClient(workspace.tracking_uri)
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FAILED"}


def test_unreachable_judge_is_refused_before_the_experiment_starts(workspace: Workspace) -> None:
    settings = {"limit": 2, "judge": "http://127.0.0.1:9/v1#x", "tracking_uri": workspace.tracking_uri}
    with pytest.raises(FledgeError, match=r"nothing answers at http://127\.0\.0\.1:9: connection refused"):
        evaluate("embedded", settings=settings, engine=ScriptedEngine())
    client = MlflowClient(workspace.tracking_uri)
    assert not client.search_runs([item.experiment_id for item in client.search_experiments()])
