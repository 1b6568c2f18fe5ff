"""Alias moves under a running endpoint, and releases that cannot be served."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.models.snapshot import resolve
from fledge.registry.release import history, promote, register, rollback
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import (
    EndpointStatus,
    find,
    log_file,
    prepare,
    restart,
    serve,
    status,
    stop,
    supervisor_command,
)
from tests.conftest import PATIENCE_S
from tests.serving.harness import ask_repeatedly, metrics, pids, until

pytestmark = pytest.mark.slow

BODY = {"inputs": ["What is machine learning?"]}


@pytest.fixture
def config(workspace: Workspace, port: int) -> ServeConfig:
    """Two releases of the embedded model that answer differently; the first is champion."""
    for tokens in (4, 8):
        generation = GenerationParams(max_tokens=tokens)
        experiment = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, generation=generation)
        register(experiment, name="mine", prompt="simple")
    promote("mine", 1, force=True, reason="test", workspace=workspace)
    return ServeConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, port=port, watch_s=0.5)


@pytest.fixture
def endpoint(config: ServeConfig) -> Iterator[EndpointStatus]:
    running = serve("mine@champion", config=config)
    yield running
    if status(workspace=config):
        stop(workspace=config)


def _version(endpoint: EndpointStatus) -> str:
    answer = httpx.post(f"{endpoint.url}/invocations", json=BODY, timeout=PATIENCE_S, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-fledge-release"]


def test_requests_follow_the_alias_without_failures(config: ServeConfig, endpoint: EndpointStatus) -> None:
    answers: list[str] = []

    def ask(http: httpx.Client) -> None:
        answer = http.post("/invocations", json=BODY)
        answers.append(answer.headers.get("x-fledge-release", f"{answer.status_code} {answer.text}"))

    with ask_repeatedly(endpoint, ask):
        assert until(lambda: len(answers) > 20)
        promote("mine", 2, force=True, reason="test", workspace=config)
        assert until(lambda: answers[-1] == "mine/2")
        rollback("mine", workspace=config)
        assert until(lambda: answers[-1] == "mine/1")
    assert set(answers) == {"mine/1", "mine/2"}
    assert until(lambda: [item.version for item in status(workspace=config)[0].releases] == [1])
    assert until(lambda: [part.role for part in status(workspace=config)[0].processes].count("engine") == 1)


def test_refused_release_leaves_the_old_one_in_service(config: ServeConfig, endpoint: EndpointStatus) -> None:
    stored = Path.cwd().glob("mlartifacts/*/models/*/artifacts/artifacts/release/snapshot/model.safetensors")
    for path in stored:
        content = path.read_bytes()
        path.unlink()  # break hard links
        path.write_bytes(content[:-1] + b"\x7f")
    for cached in (Path(config.state) / "releases").glob("mine-2-*"):
        shutil.rmtree(cached)
    from mlflow import MlflowClient

    MlflowClient(config.tracking).set_registered_model_alias("mine", "champion", "2")
    log = log_file(Path(endpoint.folder))
    assert until(lambda: "model.safetensors was changed" in log.read_text(encoding="utf-8"))
    assert _version(endpoint) == "mine/1"
    assert "model.safetensors was changed" in find(workspace=config).last_error
    assert until(lambda: metrics(endpoint, "fledge_release_refused_total") == 1)
    assert until(lambda: history("mine", workspace=config)[0].action == "refused")
    (entry, *_) = history("mine", workspace=config)
    assert (entry.alias, entry.before, entry.after) == ("champion", 1, 2)
    assert "mine/1 stays in service" in entry.reason


def test_release_with_nan_logits_is_not_served(config: ServeConfig, endpoint: EndpointStatus) -> None:
    folder = Path("broken")
    shutil.copytree(resolve("embedded").path, folder)
    weights = load_file(folder / "model.safetensors")
    # The weights are finite, the logits are not.
    large = {name: np.full(values.shape, 3e38, np.float32) for name, values in weights.items()}
    save_file(large, folder / "model.safetensors")
    register(ExperimentConfig(model=str(folder), tracking_uri=config.tracking_uri, state=config.state), name="mine")
    promote("mine", 3, force=True, reason="test", workspace=config)
    assert until(lambda: history("mine", workspace=config)[0].action == "refused")
    (entry, *_) = history("mine", workspace=config)
    assert (entry.before, entry.after) == (1, 3)
    assert _version(endpoint) == "mine/1"
    assert _version(restart(workspace=config)) == "mine/1"  # the release served last


def test_endpoint_starts_and_restarts_without_a_tracking_server(config: ServeConfig) -> None:
    database = Path(config.tracking.removeprefix("sqlite:///"))
    database.rename("away.db")
    database.mkdir()  # the database cannot be opened
    running = serve("mine@champion", config=config)  # never served before
    try:
        assert _version(running) == "mine/1"
        assert restart(workspace=config).url == running.url
        assert _version(running) == "mine/1"
    finally:
        stop(workspace=config)


def test_recorder_starts_despite_a_failing_release(config: ServeConfig) -> None:
    def running(role: str) -> dict[str, int]:
        found = [part for item in status(workspace=config) for part in item.processes if part.role == role]
        return {part.release: part.pid for part in found}

    path = prepare(config, "mine@champion", "mine/2", detached=True)
    with subprocess.Popen(supervisor_command(path), stderr=subprocess.DEVNULL) as process:
        try:
            assert until(lambda: "mine/2" in running("engine"))
            engine = running("engine")["mine/2"]
            os.kill(engine, signal.SIGSTOP)
            assert until(lambda: bool(running("recorder")))
            assert status(workspace=config)[0].state == "starting"
            os.kill(engine, signal.SIGCONT)
            assert until(lambda: status(workspace=config)[0].state == "ready")
            assert len([part for part in status(workspace=config)[0].processes if part.role == "recorder"]) == 1
        finally:
            process.terminate()


def test_hung_engine_is_killed_and_restarted(config: ServeConfig) -> None:
    running = serve("mine@champion", config=replace(config, heartbeat_s=8.0))
    try:
        engine = pids(running)["engine"]
        os.kill(engine, signal.SIGSTOP)
        assert until(lambda: not psutil.pid_exists(engine))
        assert until(lambda: httpx.get(f"{running.url}/ready", timeout=PATIENCE_S, trust_env=False).status_code == 200)
        assert _version(running) == "mine/1"
        assert "did not answer for 8 s" in log_file(Path(running.folder)).read_text(encoding="utf-8")
        assert find(workspace=config).url == running.url
    finally:
        stop(workspace=config)
