"""The prompt commands with a tracking server of MLflow 2 in a separate environment.

    python3 -m venv mlflow2 && mlflow2/bin/pip install "mlflow==2.20.*" "sqlalchemy<2.1"
    FLEDGE_TEST_MLFLOW2=mlflow2/bin/python pytest -m soak tests/soak/test_prompts_on_mlflow2.py

2.20 is the last without a prompt registry; 2.21 and 2.22 have one.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Run

pytestmark = pytest.mark.soak

PYTHON = os.environ.get("FLEDGE_TEST_MLFLOW2", "")
REPORT = "has no prompt registry"
Ask = Callable[..., Any]


@pytest.fixture
def url(tmp_path: Path, port: int) -> Iterator[str]:
    """Yield the URL of a ready server."""
    if not PYTHON:
        pytest.skip("FLEDGE_TEST_MLFLOW2 names no python with MLflow 2")
    python = Path(PYTHON).absolute()
    command = [str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts"]
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}  # it finds gunicorn in PATH
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(240):
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # including gunicorn
        process.wait(30)


@pytest.fixture
def ask(url: str, fledge: Run, tmp_path: Path) -> Ask:
    """Run a command and return its JSON; check that a server without a registry is reported once."""
    version = [int(part) for part in httpx.get(f"{url}/version").text.split(".")[:2]]
    reports = int(version < [2, 21])

    def run(*arguments: str) -> Any:
        done = fledge("prompts", *arguments, "--json", "--tracking-uri", url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(REPORT) == reports
        return json.loads(done.stdout)

    return run


def test_prompt_commands(ask: Ask, fledge: Run, url: str, tmp_path: Path) -> None:
    assert ask("list") == []
    qa, chat = tmp_path / "qa.md", tmp_path / "chat.md"
    qa.write_text("---\ntags: {team: a}\nsettings: {temperature: 0.5}\n---\nAnswer the {{question}} 😀\n")
    chat.write_text("---\nmessages: [{role: user, content: '{{question}}'}]\n---\n")
    first = ask("register", str(qa), str(chat))
    assert [(row["name"], row["version"], row["new"]) for row in first] == [("qa", 1, True), ("chat", 1, True)]
    assert (first[0]["tags"], first[0]["settings"]) == ({"team": "a"}, {"temperature": 0.5})
    assert [row["new"] for row in ask("register", str(qa), str(chat))] == [False, False]

    qa.write_text("Answer each {{question}} 😀\n")
    assert ask("register", str(qa))[0]["version"] == 2
    assert ask("show", "qa/1")["template"] == "Answer the {{question}} 😀"
    assert ask("show", "chat")["template"] == [{"role": "user", "content": "{{question}}"}]
    assert [part["text"] for part in ask("diff", "qa")["parts"] if part["op"] != "equal"] == ["the", "each"]

    assert ask("alias", "qa/1", "good")["from"] is None
    assert ask("alias", "qa/2", "good")["from"] == 1
    assert ask("show", "qa@good")["version"] == 2
    assert ask("alias", "qa", "good", "--delete") == {"name": "qa", "alias": "good", "from": 2, "to": None}
    lost = fledge("prompts", "show", "qa@good", "--tracking-uri", url)
    assert (lost.returncode, "no prompt 'qa@good'" in lost.stderr) == (2, True)

    assert ask("show", "simple")["version"] == 1
    assert [row["name"] for row in ask("list")] == ["chat", "qa", "simple"]
    assert [row["name"] for row in ask("list", "--tag", "team=a")] == ["qa"]
