"""`fledge run`: from a model to an endpoint in one step."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Run

pytestmark = pytest.mark.slow

NAME = "huggingface-dialogpt-model"


class Shell:
    """An empty folder, and commands run in it."""

    def __init__(self, fledge: Run, folder: Path, port: int) -> None:
        self._fledge = fledge
        self.folder = folder
        self.port = str(port)
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("FLEDGE_", "MLFLOW_"))
        }

    def __call__(self, *words: str, code: int = 0) -> Any:
        done = self._fledge(*words, cwd=self.folder, env=self.environ)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return (json.loads(done.stdout) if "--json" in words and not code else done.stdout), done.stderr


@pytest.fixture
def shell(fledge: Run, tmp_path: Path, port: int) -> Iterator[Shell]:
    found = Shell(fledge, tmp_path, port)
    yield found
    fledge("stop", cwd=tmp_path, env=found.environ)


def test_second_start_registers_nothing(shell: Shell) -> None:
    command = ("run", "embedded", "--port", shell.port, "--detach", "--json")
    served, said = shell(*command)
    assert set(served) == {"name", "url", "pid", "version", "ready_seconds"}
    assert (served["name"], served["version"]) == (NAME, 1)
    assert said.startswith(f"running embedded as {NAME}@champion\nregistering embedded as {NAME}")
    assert f"{NAME}@champion: none -> 1, by force: fledge run" in said
    assert "the engine of embedded will take about" in said
    answer = httpx.post(
        f"{served['url']}/invocations", json={"inputs": ["What is MLOps?"]}, trust_env=False, timeout=60
    )
    assert answer.json()["predictions"][0]
    shell("stop")
    again, said = shell(*command)
    assert (again["name"], again["version"]) == (NAME, 1)
    assert "registering" not in said
    assert "exporting" not in said
    assert "in use" in shell(*command, code=2)[1]
    shell("stop")
    history = shell("history", NAME, "--json")[0]
    assert [(move["to"], move["forced"], move["reason"]) for move in history] == [(1, True, "fledge run")]
    assert f"fledge serve {NAME}@champion" in shell("run", f"{NAME}@champion", "--port", shell.port, code=2)[1]


def test_foreground_run_reports_ready_and_ends_on_ctrl_c(shell: Shell) -> None:
    command = [sys.executable, "-m", "fledge", "run", "embedded", "--name", "mine", "--port", shell.port]
    with subprocess.Popen(
        command, cwd=shell.folder, env=shell.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        url = f"http://127.0.0.1:{shell.port}"
        try:
            assert any(f"ready at {url} after" in line for line in process.stderr)
            children = psutil.Process(process.pid).children(recursive=True)
            assert httpx.get(f"{url}/health", trust_env=False, timeout=60).status_code == 200
        finally:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=120)[1]
    assert process.returncode == 0
    assert "Traceback" not in said
    assert psutil.wait_procs(children, 60)[1] == []
