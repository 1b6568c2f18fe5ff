"""`fledge experiment` as a user types it."""

import json
from pathlib import Path

from fledge.core.settings import Workspace
from tests.conftest import Run


def test_json_is_all_that_stdout_has(fledge: Run, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('loaded')\ndef noisy(answer):\n    print('noise')\n    return 1\n")
    flags = ("--engine", "scripted", "--prompts", "simple", "--limit", "2", "--scorers", "mine.py:noisy", "--json")
    done = fledge("experiment", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["arms"][0]["metrics"]["noisy"] == 1
    assert "loaded" in done.stderr
    assert "noise" in done.stderr


def test_an_empty_run_is_no_new_experiment(fledge: Run, tmp_path: Path) -> None:
    done = fledge("experiment", "--resume", "", cwd=tmp_path)
    assert (done.returncode, "no experiment" in done.stderr) == (2, True)
    assert not (tmp_path / "mlflow.db").exists()
