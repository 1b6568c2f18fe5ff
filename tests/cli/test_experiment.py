"""`fledge experiment` on the command line."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fledge.core.settings import Workspace
from tests.conftest import Run
from tests.models.instruct_model import write_instruct_model


def test_stdout_has_only_json(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('loaded')\ndef noisy(answer):\n    print('noise')\n    return 1\n")
    flags = ("--engine", "scripted", "--prompts", "simple", "--limit", "2", "--scorers", "mine.py:noisy", "--json")
    done = fledge("experiment", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["arms"][0]["metrics"]["noisy"] == 1
    assert "loaded" in done.stderr
    assert "noise" in done.stderr


def test_unsupported_format_is_refused(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    done = fledge("experiment", "--format", "chat", "--prompts", "simple", cwd=tmp_path)
    assert done.returncode == 2
    assert "prompt simple/1 cannot be sent as chat: embedded has no chat template" in done.stderr
    assert "try: --format completion" in done.stderr
    for flag, value in (("--format", "chatty"), ("--generation", "hot")):
        wrong = fledge("experiment", flag, value, cwd=tmp_path)
        assert (wrong.returncode, f"'{value}' is not one of" in wrong.stderr) == (2, True)


def test_experiment_uses_the_sampling_settings_of_the_model(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    model = str(write_instruct_model(tmp_path / "model", do_sample=True, temperature=0.7))
    flags = ("--engine", "scripted", "--prompts", "question", "--limit", "2", "--json", "--generation", "model")
    run_id = json.loads(fledge("experiment", "--model", model, *flags, cwd=tmp_path).stdout)["run_id"]
    client = MlflowClient(workspace.tracking_uri)
    (arm,) = client.search_runs([client.get_run(run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    recorded = [arm.data.params[name] for name in ("format", "temperature", "generation_defaults")]
    assert recorded == ["chat", "0.7", "model"]
    refused = fledge("experiment", "--resume", run_id, "--generation", "model", cwd=tmp_path)
    assert (refused.returncode, "--resume cannot be combined with --generation" in refused.stderr) == (2, True)


def test_empty_run_is_refused(fledge: Run, tmp_path: Path) -> None:
    done = fledge("experiment", "--resume", "", cwd=tmp_path)
    assert (done.returncode, "no experiment" in done.stderr) == (2, True)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        ("arms: [{prompt: simple}]", ("--prompts", "expert"), "--prompts cannot be combined with arms"),
        ("questions: 2024-13-45", (), "month must be in 1..12"),
        ("{1: 2, a: 3}", (), "unknown setting"),
    ],
)
def test_invalid_settings_files_are_refused(
    fledge: Run, tmp_path: Path, content: str, flags: tuple[str, ...], said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    done = fledge("experiment", "--config", "mine.yaml", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_invalid_state_folder_creates_no_run(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    flags = ("--engine", "scripted", "--prompts", "simple", "--limit", "2", "--state", "file/x")
    done = fledge("experiment", *flags, cwd=tmp_path)
    assert (done.returncode, "cannot create" in done.stderr) == (1, True)
    client = MlflowClient(workspace.tracking_uri)
    assert client.search_runs([found.experiment_id for found in client.search_experiments()]) == []


def test_missing_scorer_is_not_reported_as_a_damaged_journal(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def one(answer):\n    return 1\n")
    flags = ("--engine", "scripted", "--prompts", "simple", "--limit", "2", "--scorers", "mine.py:one", "--json")
    run_id = json.loads(fledge("experiment", *flags, cwd=tmp_path).stdout)["run_id"]
    (tmp_path / "mine.py").rename(tmp_path / "other.py")
    done = fledge("experiment", "--resume", run_id, cwd=tmp_path)
    assert done.returncode == 2
    assert "mine.py does not exist" in done.stderr
    assert "damaged" not in done.stderr
