"""OpenAI's protocol on the wire, and errors after an engine crash."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from fledge.supervision.endpoints import EndpointStatus
from tests.serving import harness
from tests.serving.harness import create_workspace, pids, served, until

pytestmark = pytest.mark.slow

KEY = "k" * 32
QUESTION = "What is machine learning?"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def endpoint(engine_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointStatus]:
    config = create_workspace(tmp_path_factory.mktemp("streams"), engine_cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_API_KEY", KEY)
        with served(config) as running:
            yield running


@pytest.fixture(scope="module")
def http(endpoint: EndpointStatus) -> Iterator[httpx.Client]:
    with harness.client(endpoint, headers={"authorization": f"Bearer {KEY}"}) as opened:
        yield opened


def _events(response: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def test_stream_events_on_the_wire(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "stream": True, "n": 2, "stream_options": {"include_usage": True}}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = _events(response)
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    heads = {(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in chunks}
    (only,) = heads
    assert only[0] == f"chatcmpl-{response.headers['x-request-id']}"
    assert only[2:] == ("chat.completion.chunk", "mine")
    for index in range(2):
        own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in choice["delta"] for choice in own[1:])
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 2
    assert all(chunk["usage"] is None for chunk in chunks[:-1])

    del body["stream_options"]
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert not any("usage" in json.loads(event) for event in _events(response)[:-1])


def test_every_response_has_a_unique_id(http: httpx.Client) -> None:
    answers = [
        http.get("/v1/models"),
        http.get("/nowhere"),
        http.delete("/v1/models"),
        http.get("/health"),
        http.post("/v1/completions", json={"prompt": "x"}),
        http.post("/v1/completions", content=b"{"),
        http.get("/v1/models", headers={"authorization": "Bearer no"}),
        http.get("/v1/models", headers={"host": "evil.example"}),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 200, 200, 415, 401, 403]
    assert len(set(ids)) == len(ids)
    assert answers[2].headers["allow"] == "GET"


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_shows_an_answer_as_it_is_generated(endpoint: EndpointStatus) -> None:
    body = json.dumps({"prompt": QUESTION, "stream": True, "max_tokens": 400, "n": 8, "ignore_eos": True})
    command = ["curl", "-sN", f"{endpoint.url}/v1/completions", "-H", f"Authorization: Bearer {KEY}", "-d", body]
    with subprocess.Popen(
        [*command, "-H", "Content-Type: application/json"], stdout=subprocess.PIPE, text=True
    ) as curl:
        assert curl.stdout is not None
        first = curl.stdout.readline()
        still_running = curl.poll() is None
        rest = curl.stdout.read()
    assert json.loads(first.removeprefix("data: "))["id"].startswith("cmpl-")
    assert still_running
    assert rest.endswith("\n\ndata: [DONE]\n\n")
    assert rest.count("data: ") > 50


def test_engine_crash_during_a_stream(endpoint: EndpointStatus, http: httpx.Client) -> None:
    engine = pids(endpoint)["engine"]
    with (
        OpenAI(base_url=f"{endpoint.url}/v1", api_key=KEY, max_retries=0) as client,
        client.chat.completions.create(
            model="mine", messages=MESSAGES, stream=True, n=8, max_tokens=400, extra_body={"ignore_eos": True}
        ) as stream,
    ):
        chunks = iter(stream)
        for _ in range(3):
            next(chunks)
        os.kill(engine, signal.SIGKILL)
        with pytest.raises(openai.APIError) as caught:
            list(chunks)
    assert caught.value.message == "the engine stopped while generating"
    assert caught.value.type == "server_error"
    gone = http.post("/v1/chat/completions", json={"messages": MESSAGES, "stream": True})
    assert (gone.status_code, gone.headers["retry-after"]) == (503, "2")
    assert set(gone.json()["error"]) == {"message", "type", "param", "code"}
    assert until(lambda: http.get("/ready").status_code == 200)

    engine = pids(endpoint)["engine"]
    body = {"messages": MESSAGES, "stream": True, "n": 8, "max_tokens": 400, "ignore_eos": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(engine, signal.SIGKILL)
        last = [line for line in lines if line][-1]
    assert response.status_code == 200
    assert set(json.loads(last.removeprefix("data: "))["error"]) == {"message", "type", "param", "code"}
    assert until(lambda: http.get("/ready").status_code == 200)
    again = http.post("/v1/chat/completions", json={"messages": MESSAGES}).json()
    assert again["choices"][0]["finish_reason"] == "stop"
