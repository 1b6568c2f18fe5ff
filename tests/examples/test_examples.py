"""The programs in `examples/`, run as commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fledge.core.settings import Workspace
from fledge.supervision import endpoints

EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(name: str, *arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_mlflow_huggingface_experiment_compares_prompts(workspace: Workspace) -> None:
    output = _run("mlflow_huggingface_experiment.py", "--limit", "3")
    assert "12 answers, 0 failed" in output
    assert "educational against simple: " in output or "educational is " in output


@pytest.mark.slow
def test_test_prompts_shows_each_prompt_and_its_answer(workspace: Workspace) -> None:
    output = _run("test_prompts.py", "What is overfitting?")
    for name in ("simple", "conversational", "expert", "educational"):
        assert f"{name}/1\n  prompt: " in output
    assert output.count("What is overfitting?") >= 4
    assert "learns the training data" in output.lower() or output.count("answer: ") == 4


@pytest.mark.slow
def test_mlflow3_native_prompts_registers_and_compares_versions(workspace: Workspace) -> None:
    output = _run("mlflow3_native_prompts.py")
    assert "registered lesson/1 and lesson/2; lesson@trial is lesson/2" in output
    assert "again, unchanged: lesson/2" in output
    assert "lesson/2 against lesson/1: " in output or "lesson/2 is " in output
    assert "6 traces are linked to lesson/2" in output


@pytest.mark.slow
def test_serve_model_registers_serves_and_stops(workspace: Workspace, port: int) -> None:
    output = _run("serve_model.py", "--port", str(port)).splitlines()
    assert output[0] == "registered and promoted huggingface-dialogpt-model/1"
    assert output[1].startswith(f"huggingface-dialogpt-model@champion is ready on http://127.0.0.1:{port} after ")
    assert output[2].startswith("invocations: Machine learning is the study of programs")
    assert output[3].startswith("chat: Machine learning is the study of programs")
    assert output[4] == "stopped; MLflow has a trace of each answer"
    again = _run("serve_model.py", "What is MLOps?", "--port", str(port))
    assert "registered" not in again
    assert "MLOps" in again
    assert endpoints.status(workspace=workspace) == []


@pytest.mark.slow
def test_deploy_model_promotes_and_quick_test_asks_the_release(workspace: Workspace) -> None:
    output = _run("deploy_model.py")
    assert "registered huggingface-dialogpt-model version 1" in output
    assert "huggingface-dialogpt-model@champion: none -> 1, because it passed token_f1>=0.5" in output
    answers = _run("quick_test.py")
    assert answers.count("  Machine learning is the study of programs") == 5
    assert "streamed:|M|ach|ine| learning" in answers
