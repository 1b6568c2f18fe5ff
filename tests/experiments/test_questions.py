"""Experiments on questions that are no file."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from fledge.core.settings import Workspace
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments._mlflow import load_settings, load_table
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.questions.question_set import QuestionSet
from fledge.questions.sources import read_questions
from fledge.questions.versions import QuestionsConfig, register_questions


@pytest.fixture
def config(workspace: Workspace) -> ExperimentConfig:
    return ExperimentConfig(workspace.tracking_uri, workspace.state, engine="scripted", prompts=("simple",))


@pytest.fixture
def frame() -> QuestionSet:
    return read_questions(pd.DataFrame({"id": [1, 2], "question": ["a?", "b?"], "reference": ["x", None]}))


def test_a_set_in_mlflow_is_asked_and_its_version_recorded(config: ExperimentConfig, frame: QuestionSet) -> None:
    where = QuestionsConfig(config.tracking_uri, config.state)
    register_questions(frame, "qa", where)
    asking = replace(config, questions="dataset:qa")
    result = run_experiment(asking, engine=ScriptedEngine())
    register_questions(frame.sample(1), "qa", where)
    client = MlflowClient(config.tracking_uri)
    run = client.get_run(result.run_id)
    assert run.data.params["questions"] == "dataset:qa/1"
    (logged,) = run.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("qa/1", frame.digest[:8])
    assert json.loads(logged.dataset.source) == {"uri": "dataset:qa/1"}
    again = ExperimentConfig.load(load_settings(client, result.run_id))
    assert again.questions == "dataset:qa/1"


def test_a_data_frame_is_asked(config: ExperimentConfig, frame: QuestionSet) -> None:
    result = run_experiment(config, questions=frame, engine=ScriptedEngine())
    client = MlflowClient(config.tracking_uri)
    assert sorted(load_table(client, result.run_id)["question"]) == ["a?", "b?"]
    assert client.get_run(result.run_id).data.params["questions"] == "data frame"
    assert run_experiment(replace(config, limit=1), questions=frame, engine=ScriptedEngine()).cells == 1


def test_a_file_is_recorded_as_it_is_named(config: ExperimentConfig, frame: QuestionSet) -> None:
    Path("mine.jsonl").write_text('{"question": "a?"}\n')
    result = run_experiment(replace(config, questions="mine.jsonl"), engine=ScriptedEngine())
    (logged,) = MlflowClient(config.tracking_uri).get_run(result.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, json.loads(logged.dataset.source)) == ("mine.jsonl", {"uri": "mine.jsonl"})


def test_too_few_topics_for_any_verdict_are_warned_of(config: ExperimentConfig) -> None:
    rows = [{"question": f"{number}?", "topic": f"t{number % 4}"} for number in range(8)]
    said: list[str] = []
    asking = replace(config, prompts=("simple", "expert"))
    run_experiment(asking, questions=read_questions(pd.DataFrame(rows)), engine=ScriptedEngine(), say=said.append)
    assert [text for text in said if text.startswith("warning: ")] == [
        "warning: 4 topics can never show a difference, at least 6 can: "
        "ask about more topics, or compare with --independent"
    ]
