"""Canaries on a real endpoint: promotion, rollback and history."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import history, promote, register, rollback
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus, find, prepare, serve, status, stop
from tests.conftest import PATIENCE_S
from tests.serving.harness import ask_repeatedly, client, metrics, pids, until

pytestmark = pytest.mark.slow


@pytest.fixture
def config(workspace: Workspace, port: int) -> ServeConfig:
    """Releases 1, 2 and 3 with answers of 4, 5 and 400 tokens; the first is champion."""
    for tokens in (4, 5, 400):
        generation = GenerationParams(max_tokens=tokens, ignore_eos=True)
        experiment = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, generation=generation)
        register(experiment, name="mine", prompt="simple")
    promote("mine", 1, force=True, reason="test", workspace=workspace)
    return ServeConfig(
        tracking_uri=workspace.tracking_uri,
        state=workspace.state,
        port=port,
        watch_s=0.5,
        canary="challenger",
        steps=("30", "100"),
        hold="2s",
        guard=("error_rate<=+1%", "latency_p50<=+100%"),
    )


@contextmanager
def _under_load(config: ServeConfig) -> Iterator[tuple[EndpointStatus, list[int]]]:
    """Run the endpoint with clients that send requests continuously; yield it and the received status codes."""
    endpoint, statuses = serve("mine@champion", config=config), list[int]()

    def ask(http: httpx.Client) -> None:
        statuses.append(http.post("/invocations", json={"inputs": ["What is MLOps?"]}).status_code)

    try:
        with ask_repeatedly(endpoint, ask):
            yield endpoint, statuses
    finally:
        if status(workspace=config):
            stop(workspace=config)


def _answering_releases(endpoint: EndpointStatus) -> set[str]:
    """Return the releases that answer thirty requests without a session."""
    with client(endpoint) as http:
        answers = [http.post("/invocations", json={"inputs": ["Why?"]}) for _ in range(30)]
    return {answer.headers["x-fledge-release"] for answer in answers}


def _status_of_canary(config: ServeConfig) -> Callable[[], Any]:
    return lambda: getattr(find(workspace=config).canary, "status", None)


def test_passed_canary_is_promoted(config: ServeConfig, workspace: Workspace) -> None:
    promote("mine", 2, alias="challenger", force=True, reason="test", workspace=workspace)
    with _under_load(config) as (endpoint, statuses):
        assert until(
            lambda: (
                getattr(find(workspace=config).canary, "share", None) == 0.3 or _status_of_canary(config)() == "none"
            )
        )
        assert metrics(endpoint, "fledge_arm_share") == pytest.approx(1.0)
        assert until(lambda: history("mine", workspace=workspace)[0].alias == "champion")
        assert until(lambda: _status_of_canary(config)() == "none")
        (entry, *_), (release,) = history("mine", workspace=workspace), find(workspace=config).releases
        assert (entry.action, entry.before, entry.after, entry.forced) == ("promote", 1, 2, False)
        assert "passed its canary at 100 % of the requests" in entry.reason
        assert (release.version, sorted(release.aliases)) == (2, ["challenger", "champion"])
        file = (
            Path(endpoint.folder) / "canary.json"
        )  # as after a crash between the move of the alias and its history entry
        file.write_text(json.dumps({**json.loads(file.read_text()), "owed": True}))
        os.kill(pids(endpoint)["recorder"], signal.SIGKILL)
        assert until(lambda: not json.loads(file.read_text())["owed"])
        rollback("mine", workspace=workspace)  # by the user: the same release gets no second canary
        assert until(lambda: _status_of_canary(config)() == "passed")
        assert until(lambda: _answering_releases(endpoint) == {"mine/1"})
        canary = find(workspace=config).canary
        assert canary
        assert (canary.share, canary.release) == (0.0, "mine/2")
        assert history("mine", workspace=workspace)[0].action == "rollback"
    assert set(statuses) == {200}


def test_canary_that_breaks_a_guard_is_rolled_back_and_not_retried(config: ServeConfig, workspace: Workspace) -> None:
    promote("mine", 3, alias="challenger", force=True, reason="test", workspace=workspace)
    with _under_load(config) as (endpoint, statuses):
        assert until(lambda: _status_of_canary(config)() == "rolled back")
        assert until(lambda: history("mine", workspace=workspace)[0].action == "canary")
        (entry, *_) = history("mine", workspace=workspace)
        assert (entry.alias, entry.before, entry.after) == ("challenger", 1, 3)
        assert "latency_p50" in entry.reason
        assert entry.evidence
        assert _answering_releases(endpoint) == {"mine/1"}
    assert set(statuses) == {200}
    with _under_load(config):
        assert until(lambda: _status_of_canary(config)() == "rolled back")
        assert metrics(find(workspace=config), "fledge_arm_share") == 1.0
    assert sum(entry.action == "canary" for entry in history("mine", workspace=workspace)) == 1
    stored = json.loads((Path(endpoint.folder) / "canary.json").read_text())
    assert stored["state"]["status"] == "rolled back"


def test_crashing_canary_leaves_the_endpoint_running(config: ServeConfig, workspace: Workspace) -> None:
    promote("mine", 2, alias="challenger", force=True, reason="test", workspace=workspace)
    long_hold = replace(config, hold="10m", guard=("error_rate<=+50%",))
    endpoint = serve("mine@champion", config=long_hold)
    try:
        assert until(lambda: _status_of_canary(config)() == "running")
        for _ in range(5):
            assert until(lambda: bool(_engines(config, "mine/2")))
            os.kill(_engines(config, "mine/2").pop(), signal.SIGKILL)
            assert until(lambda: not _engines(config, "mine/2"))
        assert until(lambda: _status_of_canary(config)() == "rolled back")
        assert _answering_releases(endpoint) == {"mine/1"}
        assert httpx.get(f"{endpoint.url}/ready", timeout=PATIENCE_S, trust_env=False).status_code == 200
        assert until(lambda: history("mine", workspace=workspace)[0].action == "canary")
        assert "repeated crashes" in history("mine", workspace=workspace)[0].reason
    finally:
        stop(workspace=config)


def _engines(config: ServeConfig, release: str) -> set[int]:
    return {part.pid for part in find(workspace=config).processes if part.release == release}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"record": False}, "cannot be combined with --no-record"),
        ({"split": ("champion=90", "challenger=10")}, "cannot be combined with --split"),
        ({"canary": "champion"}, "needs a target with another alias"),
        ({"steps": ("100",)}, "start below 100"),
    ],
)
def test_conflicting_settings_are_refused(
    config: ServeConfig, workspace: Workspace, changes: dict[str, Any], words: str
) -> None:
    promote("mine", 2, alias="challenger", force=True, reason="test", workspace=workspace)
    with pytest.raises(InputError, match=words):
        prepare(replace(config, **changes), "mine@champion")
