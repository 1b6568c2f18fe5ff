"""The programs in `examples/`, run as a user would."""

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
def test_mlflow_huggingface_experiment(workspace: Workspace) -> None:
    told = _run("mlflow_huggingface_experiment.py", "--limit", "3")
    assert "12 answers, 0 failed" in told
    assert "educational against simple: " in told or "educational is " in told


@pytest.mark.slow
def test_test_prompts(workspace: Workspace) -> None:
    told = _run("test_prompts.py", "What is overfitting?")
    for name in ("simple", "conversational", "expert", "educational"):
        assert f"{name}/1\n  prompt: " in told
    assert told.count("What is overfitting?") >= 4
    assert "learns the training data" in told.lower() or told.count("answer: ") == 4


@pytest.mark.slow
def test_mlflow3_native_prompts(workspace: Workspace) -> None:
    told = _run("mlflow3_native_prompts.py")
    assert "registered lesson/1 and lesson/2; lesson@trial is lesson/2" in told
    assert "again, unchanged: lesson/2" in told
    assert "lesson/2 against lesson/1: " in told or "lesson/2 is " in told
    assert "6 traces are linked to lesson/2" in told


@pytest.mark.slow
def test_serve_model(workspace: Workspace, port: int) -> None:
    told = _run("serve_model.py", "--port", str(port)).splitlines()
    assert told[0] == "registered and promoted huggingface-dialogpt-model/1"
    assert told[1].startswith(f"huggingface-dialogpt-model@champion is ready on http://127.0.0.1:{port} after ")
    assert told[2].startswith("invocations: Machine learning is the study of programs")
    assert told[3].startswith("chat: Machine learning is the study of programs")
    assert told[4] == "stopped; MLflow has a trace of each answer"
    again = _run("serve_model.py", "What is MLOps?", "--port", str(port))
    assert "registered" not in again
    assert "MLOps" in again
    assert endpoints.status(workspace=workspace) == []


@pytest.mark.slow
def test_deploy_model_and_quick_test(workspace: Workspace) -> None:
    told = _run("deploy_model.py")
    assert "registered huggingface-dialogpt-model version 1" in told
    assert "huggingface-dialogpt-model@champion: none -> 1, because it passed token_f1>=0.5" in told
    asked = _run("quick_test.py")
    assert asked.count("  Machine learning is the study of programs") == 5
    assert "streamed:|M|ach|ine| learning" in asked
