"""MLflow's webhooks: signatures, and switching an endpoint to a moved alias."""

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookEvent

from fledge.core.generation import GenerationParams
from fledge.core.keys import VARIABLE as KEY
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import promote, register
from fledge.serving.webhook import PATH, VARIABLE
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus, find, serve, stop
from tests.experiments.tracking_server import TrackingServer
from tests.serving.harness import client, create_workspace, free_port, served, until

pytestmark = pytest.mark.slow

SECRET = "a secret of the webhook"  # noqa: S105


def _signed(body: bytes, *, secret: str = SECRET, moment: float | None = None) -> dict[str, str]:
    stamp = str(int(time.time() if moment is None else moment))
    digest = hmac.new(secret.encode(), f"delivery.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "x-mlflow-delivery-id": "delivery",
        "x-mlflow-timestamp": stamp,
        "x-mlflow-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


@pytest.fixture
def endpoint(tmp_path: Path, engine_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointStatus]:
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.setenv(KEY, "k" * 32)
    with served(create_workspace(tmp_path, engine_cache), engine="scripted", record=False) as running:
        yield running


def test_webhook_accepts_only_fresh_signatures_and_needs_no_key(endpoint: EndpointStatus) -> None:
    body = b'{"entity": "model_version_alias"}'
    with client(endpoint) as http:
        assert http.post(PATH, content=body, headers=_signed(body)).json() == {"received": True}
        for headers in (
            {},
            _signed(b"something else"),
            _signed(body, secret=SECRET[1:]),
            _signed(body, moment=time.time() - 400),
            _signed(body, moment=time.time() + 400),
            {**_signed(body), "x-mlflow-timestamp": "now"},
        ):
            answer = http.post(PATH, content=body, headers=headers)
            assert answer.status_code == 401, headers
            assert "error" in answer.json()
        assert http.get("/v1/models").status_code == 401


def test_webhook_is_absent_without_a_secret(tmp_path: Path, engine_cache: Path) -> None:
    with served(create_workspace(tmp_path, engine_cache), engine="scripted") as running, client(running) as http:
        assert http.post(PATH, content=b"{}", headers=_signed(b"{}")).status_code == 404


def test_webhook_switches_to_the_moved_alias(
    workspace: Workspace, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = base64.urlsafe_b64encode(b"0" * 32).decode()
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", key)
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    monkeypatch.setenv("MLFLOW_WEBHOOK_CACHE_TTL", "1")  # of the list of webhooks
    monkeypatch.setenv(VARIABLE, SECRET)
    server = TrackingServer(tmp_path, port)
    try:
        here = Workspace(server.url, workspace.state)
        for tokens in (4, 5):
            generation = GenerationParams(max_tokens=tokens)
            register(ExperimentConfig(tracking_uri=server.url, state=here.state, generation=generation), name="mine")
        promote("mine", 1, force=True, reason="test", workspace=here)
        config = ServeConfig(tracking_uri=server.url, state=here.state, port=free_port(), watch_s=3600)
        running = serve("mine@champion", config=config)
        try:
            MlflowClient(server.url).create_webhook(
                "fledge", f"{running.url}{PATH}", [WebhookEvent("model_version_alias", "created")], secret=SECRET
            )
            promote("mine", 2, force=True, reason="test", workspace=here)
            assert until(lambda: [item.version for item in find(workspace=config).releases] == [2])
        finally:
            stop(workspace=config)
    finally:
        server.close()
