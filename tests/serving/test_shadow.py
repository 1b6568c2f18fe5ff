"""Shadow releases."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.monitoring.health import summarize
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus, status
from tests.serving.harness import client, create_workspace, outbox, served, until

pytestmark = pytest.mark.slow

QUESTION = "what is overfitting"


@pytest.fixture
def config(tmp_path: Path, engine_cache: Path) -> ServeConfig:
    """Three releases with different prompts; that of `v3` has a second variable."""
    found = create_workspace(
        tmp_path, engine_cache, "Q: {{question}}", "Please: {{question}}", "{{question}} of {{book}}"
    )
    return replace(found, record=True, engine="scripted")


@pytest.fixture
def endpoint(config: ServeConfig) -> Iterator[EndpointStatus]:
    with served(config, shadow="challenger=100%") as running:
        yield running


def test_shadow_uses_its_own_prompt_and_is_not_counted(endpoint: EndpointStatus) -> None:
    with client(endpoint) as http:
        table = http.post("/invocations", json={"inputs": [QUESTION]})
        chat = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": QUESTION}]})
        bare = http.post("/v1/completions", json={"prompt": QUESTION})
    assert table.json()["predictions"] == ["Q: WHAT IS OVERFITTING"]
    assert {answer.headers["x-fledge-release"] for answer in (table, chat, bare)} == {"mine/1"}
    assert until(lambda: len(outbox(endpoint)) == 6)
    seen = {record.request_id: record for record in outbox(endpoint) if not record.is_shadow}
    unseen = {record.tags["fledge.shadow_of"]: record for record in outbox(endpoint) if record.is_shadow}
    assert set(seen) == set(unseen) == {answer.headers["x-request-id"] for answer in (table, chat, bare)}
    for answer, prompt in ((table, "plain/2"), (chat, "plain/2"), (bare, "")):
        record = unseen[answer.headers["x-request-id"]]
        assert (record.release, record.version, record.arm, record.prompt) == ("mine", 2, "challenger", prompt)
        assert ("Please: " in record.answers[0].prompt_text) == bool(prompt)
        assert record.answers[0].output.upper().endswith(QUESTION.upper())
    assert summarize(outbox(endpoint)).requests == 3


def test_shadow_with_missing_variables_is_skipped(config: ServeConfig) -> None:
    with served(config, shadow="v3=100%") as endpoint, client(endpoint) as http:
        assert http.post("/invocations", json={"inputs": [QUESTION]}).status_code == 200
        assert http.post("/v1/completions", json={"prompt": QUESTION}).status_code == 200
        assert until(lambda: len(outbox(endpoint)) == 3)
        assert [record.route for record in outbox(endpoint) if record.is_shadow] == ["completions"]


def test_crashing_shadow_does_not_affect_the_endpoint(config: ServeConfig, endpoint: EndpointStatus) -> None:
    def running() -> EndpointStatus:
        return next(item for item in status(workspace=config) if item.url == endpoint.url)

    def engines() -> set[int]:
        return {part.pid for part in running().processes if part.release == "mine/2"}

    for _ in range(5):
        assert until(lambda: bool(engines()))
        os.kill(engines().pop(), signal.SIGKILL)
        assert until(lambda: not engines())
    assert until(lambda: "repeated crashes" in running().last_error)
    assert running().state == "ready"
    with client(endpoint) as http:
        assert http.post("/invocations", json={"inputs": [QUESTION]}).status_code == 200
