"""Experiments on a real store, read back with MLflow's client."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from mlflow import MlflowClient

from fledge.chains.engine_llm import EngineChatModel
from fledge.comparison.options import CompareOptions
from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams, derive_seed
from fledge.core.settings import Workspace
from fledge.engines.engine import Engine, PromptInput
from fledge.engines.scripted import ScriptedEngine
from fledge.engines.stream import Stream
from fledge.experiments._mlflow_experiments import load_table
from fledge.experiments.comparison import compare
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.experiments.run import resume_experiment, run_experiment
from fledge.models import snapshot
from tests.conftest import PATIENCE_S, Run
from tests.models.tiny_models import write_model


def _config(workspace: Workspace, **changes: object) -> ExperimentConfig:
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, engine="scripted", limit=5)
    return replace(config, **changes)  # type: ignore[arg-type]


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    assert found is not None
    return str(found.experiment_id)


def test_runs_traces_and_tables_are_recorded_in_mlflow(workspace: Workspace) -> None:
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
    artifacts = {item.path for item in client.list_artifacts(result.run_id)}
    assert artifacts == {"answers.json", "arms.png", "config.json", "plan.json"}

    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    assert {run.info.run_name for run in nested} == {"simple", "conversational", "expert", "educational"}
    assert all(run.info.status == "FINISHED" for run in nested)
    figures = {"token_f1", "success_rate", "latency_p95_s", "question_quality", "response_quality", "effectiveness"}
    machine = {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
    for run in nested:
        assert figures | machine <= run.data.metrics.keys()
        assert run.data.metrics["effectiveness"] == run.data.metrics["response_quality"]
        assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"answers.json", "arm.png"}
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.profile == '{"num_rows": 5}'
        (output,) = run.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        assert model.params["prompt"] == f"{run.info.run_name}/1"
        assert {metric.key for metric in model.metrics} == figures & run.data.metrics.keys() | {
            name for name in run.data.metrics if not name.startswith("system/")
        }

    traces = client.search_traces(locations=[experiment], max_results=500)
    assert len(traces) == 40
    for trace in traces:
        assert [span.name for span in trace.data.spans] == ["cell", "prompt", "tokenize", "generate", "score"]
        assert trace.info.trace_metadata["mlflow.trace.tokenUsage"]
        linked = json.loads(trace.info.tags["mlflow.linkedPrompts"])
        assert linked == [{"name": trace.info.tags["fledge.arm"], "version": "1"}]
        assert trace.info.trace_metadata["mlflow.trace.session"] == result.run_id
        arm = next(run for run in nested if run.info.run_name == trace.info.tags["fledge.arm"])
        assert trace.info.trace_metadata["mlflow.sourceRun"] == arm.info.run_id
        assert trace.info.trace_metadata["mlflow.modelId"] == arm.outputs.model_outputs[0].model_id
        generate = trace.data.spans[3].attributes
        assert generate["fledge.finish_reason"] == "stop"
        assert generate["fledge.ttft_s"] >= 0
        assert generate["seed"] == derive_seed(0, int(trace.info.tags["fledge.sample"]))
    linked = client.search_traces(locations=[experiment], filter_string="prompt = 'simple/1'", max_results=500)
    assert {trace.info.tags["fledge.arm"] for trace in linked} == {"simple"}
    assert len(linked) == 10
    simple = next(run for run in nested if run.info.run_name == "simple")
    assert len(client.search_traces(locations=[experiment], run_id=simple.info.run_id, max_results=500)) == 10


def test_configuration_is_read_back_from_a_run(workspace: Workspace) -> None:
    from fledge.experiments._mlflow_experiments import load_arm, load_settings
    from fledge.prompts._mlflow_registry import open_store
    from fledge.prompts.prompt import Draft
    from fledge.tracking._mlflow_connection import connect

    generation = GenerationParams(max_tokens=9, temperature=0.5, stop=("a", "b"))
    config = _config(workspace, prompts=("expert", "simple"), generation=generation, tags=("team=x",))
    run = run_experiment(config).run_id
    client = connect(workspace.tracking)
    open_store(client).register(Draft("simple", "Another text: {{question}}"))
    again = ExperimentConfig.load(load_settings(client, run))
    again = replace(again, tracking_uri=config.tracking_uri, state=config.state)
    assert again == replace(config, prompts=("expert/1", "simple/1"))
    arm = load_arm(client, run, "expert")
    assert (arm.prompt, arm.model, arm.generation) == ("expert/1", "embedded", generation)
    assert arm.model_digest == snapshot.resolve("embedded").digest
    assert client.get_run(run).data.tags["team"] == "x"


def test_like_repeats_an_experiment(fledge: Run, workspace: Workspace) -> None:
    first = run_experiment(_config(workspace, samples=2, prompts=("expert", "simple"), limit=3))
    done = fledge("experiment", "--like", first.run_id, "--json", "--limit", "2", "--tracking-uri", workspace.tracking)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["cells"] == 2 * 2 * 2
    assert [(arm["prompt"], arm["digest"]) for arm in again["arms"]] == [(arm.prompt, arm.digest) for arm in first.arms]
    for flags, text in (
        (["--like", "nothing"], "there is no run 'nothing'"),
        (["--like", first.run_id, "--config", "x.toml"], "--config cannot be combined with --like"),
        (["--resume", first.run_id, "--samples", "3"], "--resume cannot be combined with --samples"),
    ):
        done = fledge("experiment", *flags, "--tracking-uri", workspace.tracking)
        assert done.returncode == 2
        assert text in done.stderr


def test_arms_can_differ_in_model_and_generation(workspace: Workspace, tmp_path: Path) -> None:
    model = write_model("gpt2", tmp_path / "tiny")
    arms = (
        ArmConfig("simple", "cold"),
        ArmConfig("simple", "hot", generation={"temperature": 1.5}),
        ArmConfig("expert", "tiny", model=str(model)),
    )
    config = _config(workspace, engine="transformers", arms=arms, limit=2, generation=GenerationParams(max_tokens=8))
    result = run_experiment(config)
    assert [(arm.name, arm.prompt, arm.model) for arm in result.arms] == [
        ("cold", "simple/1", "embedded"),
        ("hot", "simple/1", "embedded"),
        ("tiny", "expert/1", str(model)),
    ]
    assert (result.cells, result.failed, len({arm.digest for arm in result.arms})) == (6, 0, 3)
    client = MlflowClient(workspace.tracking_uri)
    nested = client.search_runs([_experiment(client, "fledge")], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    params = {run.info.run_name: run.data.params for run in nested}
    assert {name: found["temperature"] for name, found in params.items()} == {
        "cold": "0.0",
        "hot": "1.5",
        "tiny": "0.0",
    }
    assert params["cold"]["model_digest"] != params["tiny"]["model_digest"]


def test_nested_cells_are_runs_for_each_answer(workspace: Workspace) -> None:
    config = _config(workspace, prompts=("simple", "expert"), limit=3, nested_cells=True)
    result = run_experiment(config, engine=FailingEngine("expert"))
    client = MlflowClient(workspace.tracking_uri)
    experiment = _experiment(client, "fledge")
    runs = client.search_runs([experiment], "tags.`fledge.kind` = 'cell'")
    assert len(runs) == result.cells == 6
    nested = client.search_runs([experiment], "tags.`fledge.kind` = 'arm'")
    arms = {run.info.run_id: run.info.run_name for run in nested}
    status = {(arms[run.data.tags["mlflow.parentRunId"]], run.info.status) for run in runs}
    assert status == {("simple", "FINISHED"), ("expert", "FAILED")}
    assert all(client.get_trace(run.data.tags["fledge.trace"]).info.trace_id for run in runs)
    resume_experiment(result.run_id, engine=ScriptedEngine(), workspace=config)
    runs = client.search_runs([experiment], "tags.`fledge.kind` = 'cell'")
    assert len(runs) == 9  # three were retried


def test_custom_chains_run_together_with_prompts(workspace: Workspace) -> None:
    chain = (
        ChatPromptTemplate([("human", "{question}")])
        | EngineChatModel(engine=ScriptedEngine(lambda _: "mine"))
        | StrOutputParser()
    )

    def fail(_values: dict[str, str]) -> str:
        raise ValueError("no idea")

    own = {"mine": chain, "failing": RunnableLambda(fail)}
    result = run_experiment(_config(workspace, prompts=("simple",), limit=2), arms=own)
    assert [(arm.name, arm.prompt) for arm in result.arms] == [("simple", "simple/1"), ("mine", ""), ("failing", "")]
    assert (result.cells, result.failed) == (6, 2)
    client = MlflowClient(workspace.tracking_uri)
    table = load_table(client, result.run_id)
    assert set(table[table["arm"] == "mine"]["answer"]) == {"mine"}
    assert set(table[table["arm"] == "failing"]["error"]) == {"no idea"}
    trace = client.get_trace(table[table["arm"] == "mine"].iloc[0]["trace_id"])
    names = {span.name for span in trace.data.spans}
    assert names == {"cell", "RunnableSequence", "ChatPromptTemplate", "EngineChatModel", "StrOutputParser", "score"}
    spans = {span.name: span for span in trace.data.spans}
    assert spans["EngineChatModel"].parent_id == spans["RunnableSequence"].span_id


AUTOLOGGED = """
import time
import mlflow
mlflow.langchain.autolog()
from langchain_core.prompts import PromptTemplate
from fledge.chains.engine_llm import EngineLLM
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.engines.scripted import ScriptedEngine

def script(prompt):
    time.sleep(1)  # meanwhile MLflow sends the spans that have ended
    return "yes"

chain = PromptTemplate.from_template("{question}") | EngineLLM(engine=ScriptedEngine(script))
run_experiment(ExperimentConfig(prompts=(), limit=2), arms={"mine": chain})
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay_ms", ["50", "5000"])
def test_langchain_spans_are_nested_in_the_cell_span(workspace: Workspace, tmp_path: Path, delay_ms: str) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": workspace.tracking, "OTEL_BSP_SCHEDULE_DELAY": delay_ms}
    subprocess.run([sys.executable, "-c", AUTOLOGGED], cwd=tmp_path, env=environment, capture_output=True, check=True)
    client = MlflowClient(workspace.tracking_uri)
    experiment = _experiment(client, "fledge")
    traces = client.search_traces(locations=[experiment, "0"])
    assert [trace.info.experiment_id for trace in traces] == [experiment] * 2
    for trace in traces:
        names = [span.name for span in trace.data.spans]
        spans = {span.name: span for span in trace.data.spans}
        assert sorted(names) == ["EngineLLM", "PromptTemplate", "RunnableSequence", "cell", "score"]
        assert spans["RunnableSequence"].parent_id == spans["cell"].span_id
        assert spans["EngineLLM"].parent_id == spans["RunnableSequence"].span_id
        assert (trace.info.state.value, trace.info.tags["fledge.arm"]) == ("OK", "mine")


def test_compare_records_its_verdict_in_the_run(workspace: Workspace) -> None:
    run = run_experiment(_config(workspace)).run_id
    result = compare(run, options=CompareOptions(metric="response_length"), workspace=workspace)
    assert [arm.name for arm in result.arms] == ["simple", "conversational", "expert", "educational"]
    assert {pair.b for pair in result.pairs} == {"simple"}
    client = MlflowClient(workspace.tracking_uri)
    assert client.get_run(run).data.tags["fledge.compared_metric"] == "response_length"
    assert "comparison.json" in {item.path for item in client.list_artifacts(run)}


class FailingEngine(ScriptedEngine):
    """Fails for every prompt that contains a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def submit(self, prompt: PromptInput, params: GenerationParams) -> Stream:
        if self._word in str(prompt):
            raise FledgeError("the engine stumbled")
        return super().submit(prompt, params)


def test_failed_cells_do_not_affect_other_cells(workspace: Workspace) -> None:
    result = run_experiment(_config(workspace), engine=FailingEngine("Human:"))
    assert (result.cells, result.failed) == (20, 5)
    metrics = {arm.name: arm.metrics["success_rate"] for arm in result.arms}
    assert metrics == {"simple": 1.0, "conversational": 0.0, "expert": 1.0, "educational": 1.0}
    client = MlflowClient(workspace.tracking_uri)
    traces = client.search_traces(locations=[_experiment(client, "fledge")], max_results=100)
    assert sum(trace.info.state == "ERROR" for trace in traces) == 5


def test_prompt_variable_without_a_column_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    from fledge.prompts._mlflow_registry import open_store
    from fledge.prompts.prompt import Draft
    from fledge.tracking._mlflow_connection import connect

    client = connect(workspace.tracking)
    open_store(client).register(Draft("mine", "{{question}} for {{audience}}"))
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
from fledge.engines.scripted import ScriptedEngine

def script(prompt):
    os.write(1, b"asked\\n")  # atomic, unlike print
    time.sleep(0.2)
    return "yes"

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore SIGINT
run_experiment(ExperimentConfig(engine="scripted", concurrency=2), engine=ScriptedEngine(script))
"""


@pytest.mark.slow
def test_interrupted_runs_have_the_status_killed(workspace: Workspace, tmp_path: Path) -> None:
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
    for _ in range(3):  # Python drops an interrupt that arrives in a destructor
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
            break
    assert process.wait(60) != 0
    process.stdout.close()
    client = MlflowClient(workspace.tracking_uri)
    runs = client.search_runs([_experiment(client, "fledge")])
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"KILLED"}
    assert time.time() * 1000 - runs[0].info.end_time < 600_000


def test_unusual_questions_are_recorded_as_given(workspace: Workspace, tmp_path: Path, embedded_engine: Engine) -> None:
    texts = ["What is 😀?", "מה זה למידת מכונה?", "Quote ' and \" and {{question}} and %s", "why " * 50_000]
    path = tmp_path / "hard.jsonl"
    path.write_text("".join(json.dumps({"question": text.strip()}) + "\n" for text in texts), encoding="utf-8")
    config = _config(workspace, engine="auto", prompts=("simple",), questions=str(path), limit=0)
    result = run_experiment(config, engine=embedded_engine)
    assert (result.cells, result.failed) == (4, 1)
    client = MlflowClient(workspace.tracking_uri)
    table = load_table(client, result.run_id)
    assert list(table["question"]) == [text.strip() for text in texts]
    (error,) = table[table["error"] != ""]["error"]
    assert "tokens" in error
    traces = client.search_traces(locations=[_experiment(client, "fledge")])
    asked = {trace.data.spans[0].inputs["question"] for trace in traces}
    assert asked == {text.strip() for text in texts}
    filled = next(trace for trace in traces if "Quote" in str(trace.data.spans[0].inputs))
    assert filled.data.spans[1].outputs == f"Question: {texts[2]}\nAnswer:"


def test_empty_answers_are_scored(workspace: Workspace) -> None:
    result = run_experiment(_config(workspace, prompts=("simple",)), engine=ScriptedEngine(lambda _: ""))
    (arm,) = result.arms
    assert (result.failed, arm.metrics["empty"], arm.metrics["response_quality"]) == (0, 1.0, 0.0)


def test_latency_mode_runs_one_prompt_at_a_time(workspace: Workspace) -> None:
    lock, now, most, together = threading.Lock(), 0, 0, threading.Barrier(1)

    def script(_prompt: str) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(PATIENCE_S)
        with lock:
            now -= 1
        return "yes"

    run_experiment(_config(workspace, latency=True), engine=ScriptedEngine(script))
    assert most == 1
    together = threading.Barrier(2)
    run_experiment(_config(workspace), engine=ScriptedEngine(script))
    assert most > 1


def test_invalid_input_is_refused_before_anything_is_recorded(workspace: Workspace) -> None:
    for changes, text in (
        ({"prompts": ("nothing",)}, "no prompt 'nothing'"),
        ({"prompts": ("simple@nobody",)}, "no prompt 'simple@nobody'"),
        ({"prompts": ()}, "the experiment has no prompts"),
        ({"questions": "none.csv"}, "does not exist"),
        ({"generation": GenerationParams(max_tokens=4000)}, "--max-tokens 4000 leaves no room for a prompt"),
    ):
        with pytest.raises(InputError, match=text):
            run_experiment(_config(workspace, **changes))
    assert MlflowClient(workspace.tracking_uri).get_experiment_by_name("fledge") is None
