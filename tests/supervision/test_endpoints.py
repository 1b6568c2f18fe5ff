"""A real endpoint: start, requests, crashes, stop."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from fledge.client.checks import check_endpoint
from fledge.core.errors import FledgeError, InputError
from fledge.core.messages import OutboxRecord
from fledge.core.settings import Workspace
from fledge.core.types import Message
from fledge.experiments.config import ExperimentConfig
from fledge.monitoring.health import summarize
from fledge.prompts.prompt import Draft
from fledge.prompts.store import open_prompts
from fledge.registry.release import promote, register
from fledge.releases._mlflow_releases import find
from fledge.serving.outbox_reader import read_outbox
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus, log_file, prepare, serve, status, stop, supervisor_command
from tests.conftest import PATIENCE_S
from tests.serving.harness import until

pytestmark = pytest.mark.slow

QUESTION = "What is machine learning?"
TABLE = {"columns": ["question"], "data": [[QUESTION]]}


@pytest.fixture
def config(workspace: Workspace, port: int) -> ServeConfig:
    """Settings to serve a champion of the embedded model in this workspace."""
    experiment = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)
    register(experiment, name="mine", prompt="simple")
    promote("mine", 1, force=True, reason="test", workspace=workspace)
    return ServeConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, port=port)


@pytest.fixture
def endpoint(config: ServeConfig) -> Iterator[EndpointStatus]:
    running = serve("mine@champion", config=config)
    yield running
    if status(workspace=config):
        stop(workspace=config)


@pytest.fixture
def client(endpoint: EndpointStatus) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url, timeout=PATIENCE_S, trust_env=False) as opened:
        yield opened


def _pids(endpoint: EndpointStatus) -> dict[str, int]:
    return {item.role: item.pid for item in endpoint.processes}


def test_endpoint_answers_records_and_stops_all_processes(
    config: ServeConfig, endpoint: EndpointStatus, client: httpx.Client
) -> None:
    assert set(_pids(endpoint)) == {"supervisor", "engine", "endpoint", "recorder"}
    assert all(item.memory_bytes > 1_000_000 for item in endpoint.processes)
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in _pids(endpoint).values()]
    assert not [line for line in lines if config.tracking in line]  # it may contain a password
    assert [check.name for check in check_endpoint(endpoint.url) if not check.passed] == []
    forms: list[dict[str, object]] = [
        {"dataframe_split": TABLE},
        {"dataframe_records": [{"question": QUESTION}]},
        {"instances": [QUESTION]},
        {"inputs": {"question": [QUESTION]}},
        {"inputs": [{"question": QUESTION}]},
    ]
    answers = [client.post("/invocations", json=form).json() for form in forms]
    assert answers[0]["predictions"][0].startswith("Machine learning")
    assert all(answer == answers[0] for answer in answers)
    short = client.post("/invocations", json={**forms[0], "params": {"max_tokens": 2}}).json()
    assert len(short["predictions"][0]) < len(answers[0]["predictions"][0])

    stop(workspace=config)
    assert status(workspace=config) == []
    assert not any(psutil.pid_exists(pid) for pid in _pids(endpoint).values())
    records = read_outbox(Path(endpoint.folder) / "outbox")
    assert len([record for record in records if record.status == 200]) == 8
    _assert_traces_match(config, records)


def _assert_traces_match(config: ServeConfig, records: list[OutboxRecord]) -> None:
    from mlflow import MlflowClient

    store = MlflowClient(config.tracking)
    experiment = store.get_experiment_by_name("mine-endpoint")
    assert experiment is not None
    traces = store.search_traces(locations=[experiment.experiment_id], max_results=100)
    assert {trace.info.trace_id for trace in traces} == {record.trace_id for record in records}
    by_id = {trace.info.trace_id: trace for trace in traces}
    for record in records:
        trace = by_id[record.trace_id]
        assert trace.info.tags["fledge.release"] == "mine/1"
        assert ("mlflow.linkedPrompts" in trace.info.tags) == bool(record.prompt)
        assert bool(record.prompt) == (record.route in ("invocations", "chat") and record.status == 200)
    health = summarize(records)
    assert (health.errors, health.requests) == (0, len(records))


def test_streamed_chat_equals_the_complete_answer(client: httpx.Client) -> None:
    body = {"model": "mine@champion", "messages": [{"role": "user", "content": QUESTION}]}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
    with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_oldest_turns_of_a_long_conversation_are_left_out_and_counted(client: httpx.Client) -> None:
    turns = [("user", "old words " * 200), ("assistant", "yes"), ("user", QUESTION)]
    body = {"messages": [{"role": role, "content": content} for role, content in turns], "prompt": "none"}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.headers["x-fledge-turns-left-out"] == "2"
    short = client.post("/v1/chat/completions", json={**body, "messages": body["messages"][2:]})
    assert "x-fledge-turns-left-out" not in short.headers
    assert short.json()["choices"] == answer.json()["choices"]


def test_invalid_requests_get_errors_of_their_protocol(client: httpx.Client) -> None:
    bad: list[tuple[str, object, int]] = [
        ("/invocations", {}, 400),
        ("/invocations", {"inputs": ["a"], "instances": ["a"]}, 400),
        ("/invocations", {"dataframe_split": {"columns": ["query"], "data": [["a"]]}}, 400),
        ("/invocations", {"dataframe_split": {"columns": ["question"], "data": [[1, 2]]}}, 400),
        ("/invocations", {"instances": [""]}, 400),
        ("/invocations", {"instances": ["a"], "params": {"max_tokens": 0}}, 400),
        ("/invocations", {"instances": ["word " * 1000]}, 400),
        ("/invocations", {"instances": ["x" * 1_100_000]}, 413),
        ("/v1/chat/completions", {"messages": []}, 400),
        ("/v1/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, 400),
        ("/v1/chat/completions", {"model": "other", "messages": [{"role": "user", "content": "x"}]}, 404),
        ("/nowhere", {}, 404),
    ]
    for path, body, expected in bad:
        response = client.post(path, json=body)
        assert response.status_code == expected, (path, body)
        if path == "/invocations":
            assert set(response.json()) == {"error_code", "message"}
        else:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert client.post("/invocations", content=b"{", headers={"content-type": "application/json"}).status_code == 400


def test_foreign_hosts_and_origins_are_refused(client: httpx.Client) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        for method, path in (("GET", "/health"), ("POST", "/invocations"), ("DELETE", "/v1/models")):
            assert client.request(method, path, headers=headers).status_code == 403


def test_killed_engine_is_restarted(config: ServeConfig, endpoint: EndpointStatus, client: httpx.Client) -> None:
    os.kill(_pids(endpoint)["engine"], signal.SIGKILL)
    assert until(lambda: client.get("/ready").status_code == 503)
    refused = client.post("/invocations", json={"dataframe_split": TABLE})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert until(lambda: client.get("/ready").status_code == 200)
    assert client.post("/invocations", json={"dataframe_split": TABLE}).status_code == 200
    (running,) = status(workspace=config)
    assert {item.role: item.restarts for item in running.processes}["engine"] == 1


def test_children_end_with_a_killed_supervisor(config: ServeConfig, endpoint: EndpointStatus) -> None:
    os.kill(endpoint.pid, signal.SIGKILL)
    assert until(
        lambda: not any(psutil.pid_exists(pid) for role, pid in _pids(endpoint).items() if role != "supervisor")
    )
    assert status(workspace=config) == []
    restarted = serve("mine", config=config)
    assert restarted.state == "ready"
    stop(workspace=config)


def test_port_of_a_running_endpoint_is_refused_with_its_pid(config: ServeConfig, endpoint: EndpointStatus) -> None:
    with pytest.raises(InputError) as caught:
        serve("mine", config=config)
    assert f"port {config.port}" in caught.value.message
    assert f"pid {endpoint.pid}" in caught.value.message
    assert f"--port {config.port + 1}" in caught.value.hint


def test_port_taken_during_the_start_is_reported(config: ServeConfig) -> None:
    command = supervisor_command(prepare(config, "mine"))
    with socket.create_server((config.host, config.port)):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr == f"error: port {config.port} on 127.0.0.1 cannot be used: address already in use\n"


def test_export_during_the_start_is_reported(config: ServeConfig, tmp_path: Path) -> None:
    experiment = ExperimentConfig(tracking_uri=config.tracking_uri, state=config.state)
    register(experiment, name="bare", engines=("none",))
    said: list[str] = []
    running = serve("bare/1", say=said.append, config=replace(config, cache=str(tmp_path / "cache")))
    stop(workspace=config)
    assert "exporting embedded to OpenVINO, once for this model: about 8 s" in said
    assert any("converting" in text for text in said)
    assert said[-1].startswith("exporting embedded to OpenVINO took ")
    assert running.progress == ()
    log = log_file(Path(running.folder)).read_text(encoding="utf-8")
    assert f"supervisor: ready at {running.url} after " in log


def test_uncached_release_needs_the_tracking_server(
    workspace: Workspace, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = ServeConfig(tracking_uri=f"http://127.0.0.1:{port}", state=workspace.state, port=port)
    with pytest.raises(FledgeError, match=r"tracking server at http://127\.0\.0\.1:\d+ cannot be reached") as caught:
        serve("mine@champion", config=away)
    assert not isinstance(caught.value, InputError)
    with pytest.raises(FledgeError, match="cannot be reached: nothing listens there"):
        find(MlflowClient(tracking_uri=away.tracking_uri), "mine@champion")


def test_listening_beyond_loopback_needs_a_key(config: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_API_KEY", "short")
    with pytest.raises(InputError, match="needs a key of at least 32 bytes"):
        serve("mine", config=replace(config, host="0.0.0.0"))


def test_every_route_but_health_needs_a_key(config: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "k" * 32
    monkeypatch.setenv("FLEDGE_API_KEY", key)
    running = serve("mine", config=config)
    with httpx.Client(base_url=running.url, timeout=PATIENCE_S, trust_env=False) as client:
        assert client.get("/health").status_code == 200
        for headers, expected in (
            ({}, 401),
            ({"authorization": "Bearer no"}, 401),
            ({"authorization": f"Bearer {key}"}, 200),
        ):
            assert client.post("/invocations", json={"dataframe_split": TABLE}, headers=headers).status_code == expected
            assert client.get("/v1/models", headers=headers).status_code == expected
    assert all(check.passed for check in check_endpoint(running.url, key=key))
    stop(workspace=config)


def test_stop_without_an_endpoint_is_refused(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="no endpoint is running"):
        stop(workspace=workspace)


@pytest.mark.parametrize("engine", ["openvino", "transformers"])
def test_release_damaged_while_serving_still_answers_but_is_not_loaded_again(config: ServeConfig, engine: Any) -> None:
    (served,) = (Path(config.state) / "releases").glob("mine-*")
    (stored,) = Path.cwd().glob("mlartifacts/*/models/*/artifacts/artifacts/release")
    for path in [*served.glob("engines/*/*.bin"), *stored.glob("engines/*/*.bin")]:
        copy = shutil.copyfile(path, path.with_suffix(".copy"))  # break hard links to the shared cache
        copy.replace(path)
    endpoint = serve("mine@champion", config=replace(config, engine=engine))
    try:
        with httpx.Client(base_url=endpoint.url, timeout=PATIENCE_S, trust_env=False) as client:
            before = client.post("/invocations", json={"dataframe_split": TABLE}).json()
            for folder in (served, stored):
                for path in [*folder.glob("snapshot/*.safetensors"), *folder.glob("engines/*/*.bin")]:
                    with path.open("r+b") as file:  # in place, like a failing disk
                        file.seek(-4096, os.SEEK_END)
                        file.write(b"\xff" * 4096)
            assert client.post("/invocations", json={"dataframe_split": TABLE}).json() == before
    finally:
        stop(workspace=config)
    with pytest.raises(FledgeError, match=r"snapshot/model\.safetensors was changed"):
        serve("mine@champion", config=config)


def test_release_with_a_conversation_as_prompt(config: ServeConfig) -> None:
    turns = (Message("system", "Answer in one sentence."), Message("user", "{{question}}"))
    open_prompts(workspace=config).register(Draft("chatty", turns))
    register(ExperimentConfig(tracking_uri=config.tracking_uri, state=config.state), name="mine", prompt="chatty")
    running = serve("models:/mine/2", config=config)
    try:
        with httpx.Client(base_url=running.url, timeout=PATIENCE_S, trust_env=False) as client:
            rows = client.post("/invocations", json={"dataframe_split": TABLE}).json()["predictions"]
            turns_sent = [{"role": turn.role, "content": turn.content} for turn in turns[:1]]
            turns_sent.append({"role": "user", "content": QUESTION})
            chat = client.post("/v1/chat/completions", json={"messages": turns_sent}).json()
        assert rows[0] == chat["choices"][0]["message"]["content"].strip() != ""
    finally:
        stop(workspace=config)
