"""`fledge serve`, `status`, `logs`, `restart`, `feedback` and `stop` in scripts."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import PATIENCE_S, Run
from tests.serving.harness import create_workspace, free_port, until

pytestmark = pytest.mark.slow

KEY = "k" * 32
PROCESSES = {"role", "pid", "memory_bytes", "restarts"}


class Shell:
    """A workspace with a release `mine/1`, and commands run in it."""

    def __init__(self, fledge: Run, folder: Path, engine_cache: Path) -> None:
        config = create_workspace(folder, engine_cache)
        self._fledge = fledge
        self.folder = folder
        self.state = Path(config.state)
        self.port = str(free_port())
        self.serve = ["serve", "mine@champion", "--port", self.port, "--engine", "scripted", "--watch-s", "0"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLEDGE_", "MLFLOW_"))}
        self.environ = {**kept, "FLEDGE_HOME": config.state, "MLFLOW_TRACKING_URI": config.tracking_uri}

    def __call__(self, *words: str, code: int = 0, **environ: str) -> Any:
        done = self._fledge(*words, cwd=self.folder, env={**self.environ, **environ})
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if "--json" in words and not code else done.stdout + done.stderr


@pytest.fixture
def shell(fledge: Run, tmp_path: Path, engine_cache: Path) -> Iterator[Shell]:
    found = Shell(fledge, tmp_path, engine_cache)
    yield found
    with contextlib.suppress(AssertionError):
        found("stop")


def test_endpoint_commands_in_json(shell: Shell) -> None:
    served = shell(*shell.serve, "--detach", "--json", FLEDGE_API_KEY=KEY, FLEDGE_MAX_N="2")
    assert set(served) == {"url", "pid", "version", "ready_seconds"}
    assert served["version"] == 1
    folder = shell.state / "endpoints"
    shutil.copytree(
        folder / shell.port, folder / "1", ignore=shutil.ignore_patterns("outbox")
    )  # another endpoint that has ended
    (endpoint,) = shell("status", "--json")["endpoints"]
    assert (endpoint["url"], endpoint["state"], endpoint["pid"]) == (served["url"], "ready", served["pid"])
    assert [release["version"] for release in endpoint["releases"]] == [1]
    assert [set(part) - {"release"} for part in endpoint["processes"]] == [PROCESSES] * 4

    report = shell("test", served["url"], "--json", FLEDGE_API_KEY=KEY)
    assert report["passed"]
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=served["url"], headers=headers, timeout=PATIENCE_S, trust_env=False) as client:
        answer = client.post("/invocations", json={"inputs": ["a question"]})
    words = ("feedback", answer.headers["x-request-id"], "--value", "true", "--url", f"{served['url']}/", "--json")
    feedback = shell(*words, FLEDGE_API_KEY=KEY)
    assert set(feedback) == {"request_id", "feedback_id", "name", "value"}
    assert shell("monitor", "--json")["slo"]["requests"] >= 1

    (restarted,) = shell("restart", "--json")["endpoints"]  # without key and settings in the environment
    assert (restarted["url"], restarted["state"]) == (served["url"], "ready")
    assert restarted["pid"] != served["pid"]
    many = {"prompt": "x", "n": 3}
    with httpx.Client(base_url=served["url"], timeout=PATIENCE_S, trust_env=False) as without_key:
        assert without_key.get("/v1/models").status_code == 401
    with httpx.Client(base_url=served["url"], headers=headers, timeout=PATIENCE_S, trust_env=False) as client:
        assert client.get("/v1/models").status_code == 200
        assert "at most 2" in client.post("/v1/completions", json=many).text

    log = shell("logs", "--json", "--lines", "5")
    assert [item["pid"] for item in log["endpoints"]] == [restarted["pid"]]
    assert Path(log["log"]).is_file()
    assert [item["url"] for item in shell("stop", "--json")["endpoints"]] == [served["url"]]
    assert shell("status", "--json") == {"endpoints": []}
    ended = shell("logs", "--port", shell.port, "--json")
    assert ended["endpoints"] == []
    shell("logs", code=2)
    shell("logs", "--port", shell.port, "--follow", "--json", code=2)


def test_serve_in_the_foreground(shell: Shell) -> None:
    command = [sys.executable, "-m", "fledge", *shell.serve, "--json"]
    with subprocess.Popen(
        command, cwd=shell.folder, env=shell.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert until(lambda: any(item["ready_seconds"] for item in shell("status", "--json")["endpoints"]), 120)
            assert "runs in the foreground" in shell("logs", "--port", shell.port, code=2)
        finally:
            process.terminate()
            said = process.communicate(timeout=PATIENCE_S)
    url = f"http://127.0.0.1:{shell.port}"
    assert json.loads(said[0]) == {"url": url, "pid": process.pid, "version": 1, "ready_seconds": None}
    assert f"ready at {url} after " in said[1]
    assert process.returncode == 0


def test_second_concurrent_serve_is_refused_the_port(shell: Shell) -> None:
    command = [sys.executable, "-m", "fledge", *shell.serve, "--detach"]
    both = [
        subprocess.Popen(
            command, cwd=shell.folder, env=shell.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    refused = said[codes.index(2)]
    assert f"error: port {shell.port}" in refused
    assert f"--port {int(shell.port) + 1}" in refused
    assert "Traceback" not in "".join(said)
    (endpoint,) = shell("status", "--json")["endpoints"]
    assert endpoint["state"] == "ready"


def test_invalid_settings_exit_2_before_anything_starts(
    shell: Shell, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    none, (good, key) = tmp_path / "none", certificate
    none.write_text("# nobody\n")
    for words, said in (
        (["--redact", "nosuch"], "unknown redaction rule 'nosuch'"),
        (["--redact", "regex:("], "redaction rule regex:("),
        (["--tls-cert", str(none), "--tls-key", str(key)], "cannot load certificate"),
        (["--tls-cert", str(good), "--tls-key", str(none)], "cannot load certificate"),
        (["--host", "0.0.0.0", "--keys-file", str(none)], "needs a key of at least 32 bytes"),
    ):
        assert said in shell(*shell.serve, "--detach", *words, code=2)
    assert not (shell.state / "endpoints").exists()


def test_restart_without_its_key_leaves_the_endpoint_running(shell: Shell) -> None:
    keys = shell.folder / "keys"
    keys.write_text(f"alice {KEY}\n")
    served = shell(*shell.serve, "--detach", "--json", "--keys-file", str(keys))
    keys.unlink()
    assert "cannot be read" in shell("restart", code=2)
    assert shell("status", "--json")["endpoints"][0]["pid"] == served["pid"]


def test_feedback_is_refused_without_recording(shell: Shell) -> None:
    served = shell(*shell.serve, "--no-record", "--detach", "--json")
    assert "does not record answers" in shell("feedback", "0" * 32, "--value", "1", "--url", served["url"], code=2)


def test_crash_loop_in_the_background_exits_4(shell: Shell) -> None:
    command = [sys.executable, "-m", "fledge", *shell.serve, "--detach"]
    state, killed = shell.state / "endpoints" / shell.port / "state.json", set[int]()
    with subprocess.Popen(
        command, cwd=shell.folder, env=shell.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 2 * PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, psutil.Error, ProcessLookupError):
                for part in json.loads(state.read_text(encoding="utf-8"))["processes"]:
                    if part["role"] == "engine" and part["pid"] not in killed:
                        killed.add(part["pid"])
                        os.kill(part["pid"], signal.SIGKILL)
            time.sleep(0.01)
        said = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 4
    assert "giving up after repeated crashes" in said
    assert len(killed) == 5
