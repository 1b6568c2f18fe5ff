"""`mlflow deployments -t fledge`, by MLflow's commands and its client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pandas as pd
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import promote, register
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import serve, status, stop

pytestmark = pytest.mark.slow

QUESTION = "What is machine learning?"


@pytest.fixture
def released(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Register two versions, the first as champion, and point MLflow to them by its environment variable."""
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)
    for prompt in ("simple", "expert"):
        register(config, name="mine", prompt=prompt)
    promote("mine", 1, force=True, reason="first", workspace=workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workspace.tracking_uri)
    return workspace


def _mlflow(*words: str) -> str:
    command = [sys.executable, "-m", "mlflow", "deployments", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mlflow_commands_create_predict_and_delete(released: Workspace, port: int) -> None:
    chat = ("-t", "fledge", "--name", "chat")
    assert "chat is created" in _mlflow("create", *chat, "-m", "models:/mine@champion", "-C", f"port={port}")
    Path("in.json").write_text(json.dumps([{"question": QUESTION}, {"question": "What is MLOps?"}]))
    answers = json.loads(_mlflow("predict", *chat, "-I", "in.json"))["predictions"]
    assert [answer.split()[0] for answer in answers] == ["Machine", "MLOps"]
    assert "deleted" in _mlflow("delete", *chat)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/ping", trust_env=False)


def test_client_creates_updates_and_deletes(released: Workspace, port: int) -> None:
    client = get_deploy_client("fledge")
    client.create_deployment("chat", "models:/mine@champion", config={"port": port})
    try:
        described = {"name": "chat", "model_uri": "models:/mine@champion", "state": "ready", "version": 1}
        described["url"] = f"http://127.0.0.1:{port}"
        assert client.get_deployment("chat") == described
        assert client.list_deployments() == [described]
        (answer,) = client.predict("chat", pd.DataFrame({"question": [QUESTION]}))["predictions"]
        assert client.predict("chat", [QUESTION])["predictions"] == [answer]
        chunks = list(client.predict_stream("chat", {"messages": [{"role": "user", "content": QUESTION}]}))
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text.strip() == answer

        with pytest.raises(MlflowException, match="deployment 'chat' already exists"):
            client.create_deployment("chat", "models:/mine@champion")
        with pytest.raises(MlflowException, match="is not a release"):
            client.update_deployment("chat", "runs:/abc/model")
        with pytest.raises(MlflowException, match="no release"):
            client.update_deployment("chat", "models:/mine/9")
        with pytest.raises(MlflowException, match="'question' must be a text"):
            client.predict("chat", pd.DataFrame({"text": ["x"]}))
        assert client.get_deployment("chat")["state"] == "ready"

        client.update_deployment("chat", "models:/mine/2")
        assert (client.get_deployment("chat")["version"], client.get_deployment("chat")["state"]) == (2, "ready")
    finally:
        client.delete_deployment("chat")
    assert client.list_deployments() == []
    client.delete_deployment("chat")
    with pytest.raises(MlflowException, match="no deployment 'chat'"):
        client.predict("chat", [QUESTION])


def test_delete_leaves_another_endpoint_on_the_same_port_running(released: Workspace, port: int) -> None:
    client = get_deploy_client("fledge")
    client.create_deployment("chat", "models:/mine@champion", config={"port": port})
    config = ServeConfig(tracking_uri=released.tracking_uri, state=released.state, port=port)
    stop(workspace=config)
    other = serve("mine/2", config=config)
    try:
        assert client.get_deployment("chat")["state"] == "stopped"
        client.delete_deployment("chat")
        assert [item.pid for item in status(workspace=config)] == [other.pid]
    finally:
        stop(workspace=config)


@pytest.mark.parametrize(
    ("name", "config", "problem"),
    [
        ("../chat", {}, "invalid deployment name"),
        ("chat", {"prot": 5}, "unknown setting: prot"),
        ("chat", {"port": "x"}, "port = 'x'"),
        ("chat", {"host": "0.0.0.0"}, "needs a key"),
    ],
)
def test_create_rejects_invalid_input(released: Workspace, name: str, config: dict[str, object], problem: str) -> None:
    with pytest.raises(MlflowException, match=problem):
        get_deploy_client("fledge").create_deployment(name, "models:/mine@champion", config=config)
