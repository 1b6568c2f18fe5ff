"""`evaluate` on real models and a real store: metrics, gates, reused answers, and output for CI."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from mlflow import MlflowClient

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.engines.engine import Engine
from fledge.engines.scripted import ScriptedEngine
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.experiments.evaluation import build_config, evaluate, write_junit
from fledge.experiments.run import run_experiment
from fledge.models.embedded.corpus import load_corpus
from fledge.prompts.prompt import Draft
from fledge.prompts.store import open_prompts
from fledge.registry.naming import DEFAULT_NAME
from fledge.registry.release import promote, register
from tests.conftest import Run
from tests.models.instruct_model import write_instruct_model

ANSWERS = {text: entry.answer for entry in load_corpus() for text in entry.held_out}


def _answer_half(prompt: str) -> str:
    """Return the correct answer to about half of the questions."""
    question = prompt.split("Question: ")[1].split("\n")[0]
    return ANSWERS[question] if len(question) % 2 else "no idea"


def test_intervals_stay_within_the_range_of_their_metric(workspace: Workspace, tmp_path: Path) -> None:
    """Two scored answers are too few for an interval; a t interval would be -1.856 to 2.38."""
    path = tmp_path / "questions.csv"
    path.write_text("question,reference\na?,yes it is so\nb?,no\nc?,\nd?,\ne?,\n")
    found = evaluate(
        "embedded",
        "token_f1>=0.1, latency_p95_s<=60",
        settings={"questions": str(path), "engine": "scripted", "tracking_uri": workspace.tracking_uri},
        engine=ScriptedEngine(lambda _: "yes it was"),
    )
    assert found.intervals["token_f1"] == (0.0, 1.0)
    assert all(low >= 0 for low, _ in found.intervals.values())
    assert found.summary()[0].endswith(
        "0 to 1, 2 questions); 2 questions too few: the interval is the whole range of the metric"
    )
    assert found.summary()[1].endswith("5 answers cannot bound a 95th percentile: 72 are needed")


def test_answers_of_an_experiment_are_reused(workspace: Workspace, embedded_engine: Engine) -> None:
    lines: list[str] = []
    common = {"limit": 6, "tracking_uri": workspace.tracking_uri, "state": workspace.state}

    def count_reused(*gates: str, **changes: object) -> tuple[int, float]:
        lines.clear()
        reuse = bool(changes.pop("reuse", True))
        found = evaluate(
            "embedded", gates, settings={**common, **changes}, engine=embedded_engine, say=lines.append, reuse=reuse
        )
        run = MlflowClient(workspace.tracking_uri).get_run(found.run_id)
        assert run.data.metrics["cells"] == 6
        return int(run.data.metrics["reused"]), found.metrics["token_f1"]

    config = ExperimentConfig.load({**common, "limit": 4, "prompts": ("expert", "simple")})
    arms = (ArmConfig("simple", "another name"), ArmConfig("expert"))
    run_experiment(replace(config, arms=arms), engine=embedded_engine)
    reused, score = count_reused("error_rate<=0.9")
    assert reused == 4
    assert any("reused 4 answers from run" in text for text in lines)
    assert count_reused(reuse=False) == (0, score)
    assert not any("reused" in text for text in lines)
    assert count_reused() == (6, score)
    assert count_reused("latency_p95_s<=60")[0] == 0
    assert count_reused(max_tokens=3)[0] == 0
    for path in (workspace.state_dir / "experiments").glob("*/answers.jsonl"):
        path.write_text("damaged\n")
    assert count_reused()[0] == 0
    assert count_reused()[0] == 6
    assert count_reused(engine="scripted")[0] == 6  # the given engine is used, not the setting
    scripted = ScriptedEngine(lambda _: "something else")
    assert evaluate("embedded", settings=common, engine=scripted).metrics["token_f1"] != score


def test_answers_to_a_question_in_another_context_are_not_reused(
    workspace: Workspace, tmp_path: Path, embedded_engine: Engine
) -> None:
    open_prompts(workspace=workspace).register(Draft("ctx", "{{context}} {{question}}"))
    reused = []
    for context, note in (("one", "x"), ("one", "y"), ("two", "y")):
        row = {"id": "1", "question": "Why?", "context": context, "note": note}
        (tmp_path / "q.jsonl").write_text(json.dumps(row))
        settings = {"questions": str(tmp_path / "q.jsonl"), **vars(workspace)}
        found = evaluate("embedded", prompt="ctx", settings=settings, engine=embedded_engine)
        run = MlflowClient(workspace.tracking_uri).get_run(found.run_id)
        reused.append(int(run.data.metrics["reused"]))
    assert reused == [0, 1, 0]


def test_metrics_intervals_and_gates_are_recorded(workspace: Workspace, tmp_path: Path) -> None:
    found = evaluate(
        "embedded",
        "token_f1>=0.1, error_rate<=0.2, exact_match>=0.9",
        settings={"limit": 40, "engine": "scripted", "tracking_uri": workspace.tracking_uri},
        engine=ScriptedEngine(_answer_half),
    )
    assert (found.questions, found.cells, found.failed) == (40, 40, 0)
    assert found.prompt == "simple/1"
    low, high = found.intervals["exact_match"]
    assert low < found.metrics["exact_match"] < high
    assert {gate.gate: gate.passed for gate in found.gates} == {
        "token_f1>=0.1": True,
        "error_rate<=0.2": True,
        "exact_match>=0.9": False,
    }
    assert not found.passed

    client = MlflowClient(workspace.tracking_uri)
    run = client.get_run(found.run_id)
    assert (run.data.tags["fledge.kind"], run.data.tags["fledge.passed"]) == ("evaluation", "false")
    kept = json.loads(Path(client.download_artifacts(found.run_id, "evaluation.json", str(tmp_path))).read_text())
    assert kept["metrics"] == pytest.approx(found.metrics)

    path = tmp_path / "gates.xml"
    write_junit(found, path)
    suite = ET.parse(path).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == ["exact_match>=0.9"]


def test_invalid_gates_are_refused_before_any_prompt(workspace: Workspace) -> None:
    asked: list[str] = []
    engine = ScriptedEngine(lambda prompt: asked.append(prompt) or "x")  # type: ignore[func-returns-value]
    for gate, problem in (
        ("token_f1<=0.5", "better when higher"),
        ("latency_s>=1", "better when lower"),
        ("x", "gate"),
    ):
        with pytest.raises(InputError, match=problem):
            evaluate("embedded", gate, settings={"limit": 2}, engine=engine)
    assert asked == []


def test_default_prompt_depends_on_the_target(workspace: Workspace, tmp_path: Path) -> None:
    settings = {"tracking_uri": workspace.tracking_uri, "limit": 2, "engine": "scripted"}
    instruct = str(write_instruct_model(tmp_path / "instruct"))
    assert evaluate("embedded", settings=settings).prompt == "simple/1"
    assert evaluate(instruct, settings=settings).prompt == "question/1"
    assert evaluate(instruct, prompt="expert", settings=settings).prompt == "expert/1"
    assert build_config("http://127.0.0.1:1/v1#m", "expert", settings).prompts == ("expert",)


def test_failing_scorer_is_reported_and_loses_no_answer(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def odd(answer):\n    return 1 / 0\n")
    lines: list[str] = []
    found = evaluate(
        "embedded",
        settings={
            "limit": 20,
            "engine": "scripted",
            "scorers": f"empty,{tmp_path / 'mine.py'}:odd",
            "tracking_uri": workspace.tracking_uri,
        },
        engine=ScriptedEngine(),
        say=lines.append,
    )
    assert (found.cells, found.failed) == (20, 0)
    assert found.metrics["empty"] == 0
    (warning,) = [text for text in lines if "scorer odd failed" in text]
    assert "ZeroDivisionError" in warning


@pytest.mark.slow
def test_perplexity_gate_on_a_real_engine(workspace: Workspace, embedded_engine: Engine) -> None:
    settings = {"limit": 12, "scorers": "perplexity,token_f1", "tracking_uri": workspace.tracking_uri}
    found = evaluate("embedded", "perplexity<=2", settings=settings, engine=embedded_engine)
    assert found.passed  # the model has memorised its answers
    assert 1 <= found.metrics["perplexity"] < 2


@pytest.mark.slow
def test_release_is_evaluated_with_its_own_prompt_and_settings(workspace: Workspace, embedded_engine: Engine) -> None:
    config = ExperimentConfig.load({"tracking_uri": workspace.tracking_uri, "max_tokens": 24})
    register(config, name=DEFAULT_NAME, prompt="expert")
    promote(DEFAULT_NAME, 1, force=True, reason="first", workspace=workspace)
    target = f"{DEFAULT_NAME}@champion"
    where = {"tracking_uri": workspace.tracking_uri}
    config = build_config(target, None, where)
    assert (config.prompts, config.generation.max_tokens) == (("expert/1",), 24)
    assert build_config(target, None, {"max_tokens": 8, **where}).generation.max_tokens == 8
    found = evaluate(target, "token_f1>=0.3", settings={"limit": 24, **where}, engine=embedded_engine)
    assert found.passed
    assert found.metrics["completion_tokens"] <= 24
    with pytest.raises(InputError, match="no release"):
        evaluate(f"{DEFAULT_NAME}@nobody", settings=where)


@pytest.mark.slow
def test_failed_gate_sets_exit_code_and_junit_failure(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    """The command as a CI job runs it."""
    common = ("evaluate", "embedded", "--limit", "60", "--gate")
    done = fledge(*common, "token_f1>=0.5, error_rate<=0.1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["passed"] is True
    assert answer["metrics"]["token_f1"] > 0.5
    done = fledge(*common, "token_f1>=0.999", "--gate", "empty<=0.5", "--junit", "gates.xml", "--json", cwd=tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["passed"] is False
    assert "1 of 2 gates failed: token_f1>=0.999" in done.stderr
    assert ET.parse(tmp_path / "gates.xml").getroot()[0].get("failures") == "1"


@pytest.mark.slow
def test_pytest_fixture_fails_the_test_of_a_failed_gate(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "test_model.py").write_text(
        "def test_good(fledge_evaluate):\n"
        "    found = fledge_evaluate('embedded', 'error_rate<=0.5', settings={'engine': 'scripted', 'limit': 12})\n"
        "    assert found.metrics['error_rate'] == 0\n"
        "def test_bad(fledge_evaluate):\n"
        "    fledge_evaluate('embedded', 'token_f1>=0.99', settings={'engine': 'scripted', 'limit': 12})\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_model.py"],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": workspace.tracking_uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "FAILED  token_f1>=0.99" in done.stdout
