"""A killed experiment, or one whose tracking server fails, loses no answer and asks no question twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableLambda
from mlflow import MlflowClient

from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments._mlflow_experiments import load_table
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import resume_experiment, run_experiment
from fledge.experiments.runs import runs
from tests.conftest import PATIENCE_S
from tests.experiments.tracking_server import TrackingServer, all_traces
from tests.serving.harness import until

# Logs each prompt, and answers as many as the file `allowed` says; `resume` is the run to resume, or empty.
PROGRAM = """
import itertools, json, os, pathlib, sys, time
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import resume_experiment, run_experiment
from fledge.engines.scripted import ScriptedEngine

resume, asked = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
allowed, numbers = pathlib.Path(sys.argv[3]), itertools.count()

def script(prompt):
    os.write(asked, (json.dumps(prompt) + "\\n").encode())
    number = next(numbers)
    while number >= int(allowed.read_text()):
        time.sleep(0.01)
    return "yes"

engine = ScriptedEngine(script)
if resume:
    resume_experiment(resume, engine=engine, workspace=Workspace(os.environ["MLFLOW_TRACKING_URI"]))
else:
    run_experiment(
        ExperimentConfig(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], engine="scripted", limit=10, concurrency=4),
        engine=engine,
    )
"""


def _allow(folder: Path, answers: int) -> None:
    state.write_json(folder / "allowed", answers)


def _start(folder: Path, uri: str, resume: str = "", *, answers: int) -> "subprocess.Popen[bytes]":
    """Start the program, which waits after `answers` prompts until more are allowed."""
    _allow(folder, answers)
    command = [sys.executable, "-c", PROGRAM, resume, str(folder / "asked.jsonl"), str(folder / "allowed")]
    return subprocess.Popen(command, cwd=folder, env=os.environ | {"MLFLOW_TRACKING_URI": uri})


def _journal(folder: Path) -> list[dict[str, str]]:
    """Return the answers on disk of the only experiment in a folder."""
    paths = list((folder / ".fledge" / "experiments").glob("*/answers.jsonl"))
    content = paths[0].read_bytes() if paths else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


@pytest.mark.slow
def test_killed_experiment_resumes_without_asking_twice(workspace: Workspace, tmp_path: Path) -> None:
    rng = random.Random(1)
    run_id, here = "", replace(workspace, state=str(tmp_path / ".fledge"))
    for _ in range(3):
        before, answers = len(_journal(tmp_path)), 1 + rng.randrange(12)
        process = _start(tmp_path, workspace.tracking, run_id, answers=answers)
        assert until(lambda: len(_journal(tmp_path)) == before + answers)  # noqa: B023 (called immediately)
        assert [run.status for run in runs(workspace=here)] == ["running"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert [run.status for run in runs(workspace=here)] == ["interrupted"]
        (folder,) = (tmp_path / ".fledge" / "experiments").iterdir()
        run_id = folder.name
    answered = _journal(tmp_path)
    assert 3 <= len(answered) < 40
    (tmp_path / "asked.jsonl").rename(tmp_path / "before.jsonl")
    assert _start(tmp_path, workspace.tracking, run_id, answers=40).wait(2 * PATIENCE_S) == 0
    asked = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    assert len(asked) == 40 - len(answered)
    assert not {answer["prompt_text"] for answer in answered} & set(asked)
    assert max(Counter(answer["key"] for answer in _journal(tmp_path)).values()) == 1

    client = MlflowClient(workspace.tracking)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.metrics["cells"], run.data.metrics["failed"]) == ("FINISHED", 40, 0)
    table = load_table(client, run_id)
    assert len(table) == len(table.groupby(["question_id", "arm", "sample"])) == 40
    traces = all_traces(client, run_id)
    assert len(traces) == 40
    assert set(traces) == set(table["trace_id"])
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {item.info.status for item in nested} == {"FINISHED"}
    assert [item.data.metrics["cells"] for item in nested] == [10] * 4


def test_resuming_a_finished_experiment_asks_nothing(workspace: Workspace) -> None:
    def never(prompt: str) -> str:
        raise AssertionError(prompt)

    config = ExperimentConfig(tracking_uri=workspace.tracking, state=workspace.state, engine="scripted", limit=3)
    first = run_experiment(config, engine=ScriptedEngine())
    again = resume_experiment(first.run_id, engine=ScriptedEngine(never), workspace=config)
    assert again == first
    assert len(all_traces(MlflowClient(workspace.tracking), first.run_id)) == 12


def test_failed_answers_are_retried_and_replaced(workspace: Workspace) -> None:
    def fail_sometimes(prompt: str) -> str:
        if prompt.startswith("Human:"):
            raise FledgeError("the engine stumbled")
        if prompt.startswith("Question:"):
            raise InputError("the prompt is too long")
        return "yes"

    config = ExperimentConfig(tracking_uri=workspace.tracking, state=workspace.state, engine="scripted", limit=3)
    first = run_experiment(config, engine=ScriptedEngine(fail_sometimes))
    assert first.failed == 6
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "yes"

    again = resume_experiment(first.run_id, engine=ScriptedEngine(answer), workspace=config)
    assert (again.cells, again.failed, len(asked)) == (12, 3, 3)
    client = MlflowClient(workspace.tracking)
    found = client.search_traces(locations=[client.get_run(first.run_id).info.experiment_id])
    assert Counter(trace.info.state.value for trace in found) == {"OK": 9, "ERROR": 3}
    assert {trace.info.trace_id for trace in found} == set(load_table(client, first.run_id)["trace_id"])


def test_custom_chain_must_be_passed_again_on_resume(workspace: Workspace) -> None:
    def answer(_values: dict[str, str]) -> str:
        return "yes"

    chains = {"mine": RunnableLambda(answer)}
    config = ExperimentConfig(tracking_uri=workspace.tracking, state=workspace.state, prompts=(), limit=2)
    run_id = run_experiment(config, arms=chains).run_id
    with pytest.raises(InputError, match="mine: custom chains cannot be restored from the journal"):
        resume_experiment(run_id, workspace=config)
    assert resume_experiment(run_id, arms=chains, workspace=config).cells == 2


@pytest.fixture
def tracking_server(workspace: Workspace, tmp_path: Path, port: int) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path, port)
    yield server
    server.close()


@pytest.mark.slow
def test_experiment_survives_a_tracking_server_outage(tracking_server: TrackingServer, tmp_path: Path) -> None:
    process = _start(tmp_path, tracking_server.url, answers=8)
    assert until(lambda: len(_journal(tmp_path)) == 8)
    tracking_server.stop()
    _allow(tmp_path, 40)
    assert until(lambda: len(_journal(tmp_path)) == 40)  # answers do not wait for the server
    time.sleep(3)
    assert process.poll() is None
    tracking_server.start()
    assert process.wait(2 * PATIENCE_S) == 0
    client = MlflowClient(tracking_server.url)
    (folder,) = (tmp_path / ".fledge" / "experiments").iterdir()
    run = client.get_run(folder.name)
    assert (run.info.status, run.data.metrics["cells"], run.data.metrics["failed"]) == ("FINISHED", 40, 0)
    assert len(all_traces(client, folder.name)) == len(load_table(client, folder.name)) == 40


@pytest.mark.slow
def test_experiment_can_be_resumed_after_a_permanent_outage(tracking_server: TrackingServer, tmp_path: Path) -> None:
    config = ExperimentConfig(
        tracking_uri=tracking_server.url, engine="scripted", limit=5, concurrency=2, tracking_timeout=8
    )
    seen: list[str] = []

    def script(prompt: str) -> str:
        if len(seen) == 3:
            tracking_server.stop()
        seen.append(prompt)
        return "yes"

    lines: list[str] = []
    with pytest.raises(FledgeError, match=r"are not in MLflow yet.* Every answer is kept in") as caught:
        run_experiment(config, engine=ScriptedEngine(script), say=lines.append)
    assert len(_journal(tmp_path)) == len(seen) == 20
    assert any("every answer is kept on disk" in text for text in lines)
    (folder,) = (tmp_path / ".fledge" / "experiments").iterdir()
    assert caught.value.hint.endswith(f"fledge experiment --resume {folder.name[:8]}")
    tracking_server.start()
    result = resume_experiment(folder.name, workspace=replace(config, tracking_timeout=PATIENCE_S))
    assert (result.cells, result.failed, len(seen)) == (20, 0, 20)
    assert len(all_traces(MlflowClient(tracking_server.url), folder.name)) == 20
