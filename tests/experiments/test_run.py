"""Experiments on a real store, read back with MLflow's own client."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.experiments.comparison import CompareOptions, compare
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.models.engine import GenerationParams, Prompt, Stream
from fledge.models.scripted import ScriptedEngine


def _config(workspace: Workspace, **changes: object) -> ExperimentConfig:
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, engine="scripted", limit=5)
    return replace(config, **changes)  # type: ignore[arg-type]


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    assert found is not None
    return str(found.experiment_id)


def test_runs_traces_and_tables_are_in_mlflow(workspace: Workspace) -> None:
    seen: list[tuple[int, int, int, int]] = []
    config = _config(workspace, samples=2, generation=GenerationParams(temperature=0.5))
    result = run_experiment(config, progress=lambda *numbers: seen.append(numbers))
    assert (result.cells, result.failed, len(result.arms)) == (40, 0, 4)
    assert seen[-1][:3] == (40, 40, 0)

    client = MlflowClient(workspace.tracking_uri)
    experiment = _experiment(client, "fledge")
    parent = client.get_run(result.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["prompts"] == "simple,conversational,expert,educational"
    assert parent.data.metrics["cells"] == 40
    assert {item.path for item in client.list_artifacts(result.run_id)} == {"answers.json", "arms.png"}

    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    assert {run.info.run_name for run in nested} == {"simple", "conversational", "expert", "educational"}
    assert all(run.info.status == "FINISHED" for run in nested)
    assert all({"token_f1", "success_rate", "latency_p95_s"} <= run.data.metrics.keys() for run in nested)

    traces = client.search_traces(locations=[experiment], max_results=500)
    assert len(traces) == 40
    for trace in traces:
        assert [span.name for span in trace.data.spans] == ["cell", "prompt", "generate", "score"]
        assert trace.info.trace_metadata["mlflow.trace.tokenUsage"]
        linked = json.loads(trace.info.tags["mlflow.linkedPrompts"])
        assert linked == [{"name": trace.info.tags["fledge.arm"], "version": "1"}]
    simple = next(run for run in nested if run.info.run_name == "simple")
    assert len(client.search_traces(locations=[experiment], run_id=simple.info.run_id, max_results=500)) == 10


def test_a_run_remembers_its_configuration(workspace: Workspace) -> None:
    from fledge.experiments._mlflow import load_config, load_prompt_labels

    generation = GenerationParams(max_tokens=9, temperature=0.5, stop=("a", "b"))
    config = _config(workspace, prompts=("expert", "simple"), generation=generation)
    run = run_experiment(config).run_id
    client = MlflowClient(workspace.tracking_uri)
    assert replace(load_config(client, run), tracking_uri=config.tracking_uri, state=config.state) == config
    assert load_prompt_labels(client, run) == {"expert": "expert/1", "simple": "simple/1"}


def test_compare_reads_the_run_and_leaves_its_verdict_there(workspace: Workspace) -> None:
    run = run_experiment(_config(workspace)).run_id
    result = compare(workspace, run, options=CompareOptions(metric="response_length"))
    assert [arm.name for arm in result.arms] == ["simple", "conversational", "expert", "educational"]
    assert {pair.b for pair in result.pairs} == {"simple"}
    client = MlflowClient(workspace.tracking_uri)
    assert client.get_run(run).data.tags["fledge.compared_metric"] == "response_length"
    assert "comparison.json" in {item.path for item in client.list_artifacts(run)}


class FailingEngine(ScriptedEngine):
    """Refuses every prompt that mentions a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        if self._word in str(prompt):
            raise FledgeError("the engine stumbled")
        return super().submit(prompt, params)


def test_an_error_stays_with_its_cell(workspace: Workspace) -> None:
    result = run_experiment(_config(workspace), engine=FailingEngine("Human:"))
    assert (result.cells, result.failed) == (20, 5)
    metrics = {arm.name: arm.metrics["success_rate"] for arm in result.arms}
    assert metrics == {"simple": 1.0, "conversational": 0.0, "expert": 1.0, "educational": 1.0}
    client = MlflowClient(workspace.tracking_uri)
    traces = client.search_traces(locations=[_experiment(client, "fledge")], max_results=100)
    assert sum(trace.info.state == "ERROR" for trace in traces) == 5


def test_a_prompt_whose_variable_no_question_has(workspace: Workspace, tmp_path: Path) -> None:
    from fledge.prompts._mlflow import register_prompt
    from fledge.tracking._mlflow import connect

    client = connect(workspace.tracking)
    register_prompt(client, "mine", "{{question}} for {{audience}}")
    with pytest.raises(InputError, match="prompt mine/1 needs 'audience'"):
        run_experiment(_config(workspace, prompts=("simple", "mine")))
    assert client.get_experiment_by_name("fledge") is None
    path = tmp_path / "mine.csv"
    path.write_text("question,audience\nWhat is ML?,children\n")
    result = run_experiment(_config(workspace, prompts=("mine",), questions=str(path)))
    assert (result.cells, result.failed) == (1, 0)


SLOW_EXPERIMENT = """
import os, signal, time
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.models.scripted import ScriptedEngine

def script(prompt):
    os.write(1, b"asked\\n")  # in one piece, whatever other threads write
    time.sleep(0.2)
    return "yes"

signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell that started the tests may have it ignored
run_experiment(ExperimentConfig(engine="scripted", concurrency=2), engine=ScriptedEngine(script))
"""


@pytest.mark.slow
def test_an_interrupted_experiment_ends_as_killed(workspace: Workspace, tmp_path: Path) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": workspace.tracking_uri}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_EXPERIMENT],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    for _ in range(4):
        assert process.stdout.readline() == "asked\n"
    for _ in range(3):  # Python may drop an interrupt that meets it in a destructor; a user presses Ctrl-C again
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            break
    assert process.wait(1) != 0
    process.stdout.close()
    client = MlflowClient(workspace.tracking_uri)
    runs = client.search_runs([_experiment(client, "fledge")])
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"KILLED"}
    assert time.time() * 1000 - runs[0].info.end_time < 60_000
