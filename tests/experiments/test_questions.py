"""Sources of an experiment's questions: MLflow data sets, data frames and files."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from fledge.core.settings import Workspace
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments._mlflow_experiments import load_settings, load_table
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import resume_experiment, run_experiment
from fledge.questions.question_set import QuestionSet
from fledge.questions.sources import read_questions
from fledge.questions.versions import QuestionsConfig, register_questions


@pytest.fixture
def config(workspace: Workspace) -> ExperimentConfig:
    return ExperimentConfig(workspace.tracking_uri, workspace.state, engine="scripted", prompts=("simple",))


@pytest.fixture
def frame() -> QuestionSet:
    return read_questions(pd.DataFrame({"id": [1, 2], "question": ["a?", "b?"], "reference": ["x", None]}))


def test_version_of_an_mlflow_data_set_is_recorded(config: ExperimentConfig, frame: QuestionSet) -> None:
    where = QuestionsConfig(config.tracking_uri, config.state)
    register_questions(frame, "qa", config=where)
    changed = replace(config, questions="dataset:qa")
    result = run_experiment(changed, engine=ScriptedEngine())
    register_questions(frame.sample(1), "qa", config=where)
    client = MlflowClient(config.tracking_uri)
    run = client.get_run(result.run_id)
    assert run.data.params["questions"] == "dataset:qa/1"
    (logged,) = run.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("qa/1", frame.digest[:8])
    assert json.loads(logged.dataset.source) == {"uri": "dataset:qa/1"}
    again = ExperimentConfig.load(load_settings(client, result.run_id))
    assert again.questions == "dataset:qa/1"


def test_data_frame_is_a_source_of_questions(config: ExperimentConfig, frame: QuestionSet) -> None:
    result = run_experiment(config, questions=frame, engine=ScriptedEngine())
    client = MlflowClient(config.tracking_uri)
    assert sorted(load_table(client, result.run_id)["question"]) == ["a?", "b?"]
    assert client.get_run(result.run_id).data.params["questions"] == "data frame"
    assert run_experiment(replace(config, limit=1), questions=frame, engine=ScriptedEngine()).cells == 1


def test_file_is_recorded_by_its_given_name(config: ExperimentConfig, frame: QuestionSet) -> None:
    Path("mine.jsonl").write_text('{"question": "a?"}\n')
    result = run_experiment(replace(config, questions="mine.jsonl"), engine=ScriptedEngine())
    (logged,) = MlflowClient(config.tracking_uri).get_run(result.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, json.loads(logged.dataset.source)) == ("mine.jsonl", {"uri": "mine.jsonl"})


def test_layout_is_recorded_with_the_run(config: ExperimentConfig) -> None:
    Path("sums.csv").write_bytes("Question;Full, caf\xe9\na?;So: #### 18\nb?;#### 3\n".encode("latin-1"))
    Path("fledge.toml").write_text("""questions = "sums.csv"
columns = ["question=Question", "reference=Full, caf\u00e9"]
reference_pattern = "#### (.+)"
""")
    lines: list[str] = []
    asking = ExperimentConfig.load({"tracking_uri": config.tracking_uri, "engine": "scripted", "prompts": ("simple",)})
    result = run_experiment(asking, engine=ScriptedEngine(), say=lines.append)
    assert [line for line in lines if "sums.csv" in line] == [
        "sums.csv: not UTF-8, read as Windows-1252 (Latin-1), as 'café' on line 1"
    ]
    client = MlflowClient(config.tracking_uri)
    assert set(load_table(client, result.run_id)["reference"]) == {"18", "3"}
    params = client.get_run(result.run_id).data.params
    assert (params["columns"], params["reference_pattern"], params["header_row"]) == (
        "question=Question,reference=Full, café",
        "#### (.+)",
        "1",
    )
    Path("fledge.toml").unlink()
    again = ExperimentConfig.load(load_settings(client, result.run_id))
    assert again.layout == asking.layout
    Path("sums.csv").unlink()  # the journal has the questions
    assert resume_experiment(result.run_id, engine=ScriptedEngine(), workspace=config).cells == 2


def test_too_few_topics_for_a_verdict_are_a_warning(config: ExperimentConfig) -> None:
    rows = [{"question": f"{number}?", "topic": f"t{number % 4}"} for number in range(8)]
    lines: list[str] = []
    asking = replace(config, prompts=("simple", "expert"))
    run_experiment(asking, questions=read_questions(pd.DataFrame(rows)), engine=ScriptedEngine(), say=lines.append)
    assert [text for text in lines if text.startswith("warning: ")] == [
        "warning: 4 topics are too few to show any difference (at least 6 are needed): "
        "ask about more topics, or compare with --independent"
    ]
