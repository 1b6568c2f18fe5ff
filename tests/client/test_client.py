"""Both clients over HTTP, with an endpoint of fledge and with faulty servers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import fledge
from fledge.client.answers import EndpointAnswer
from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Message
from fledge.engines.stream import Usage
from fledge.supervision.endpoints import EndpointStatus
from tests.chat.scripted_server import Reply, Script, events, piece, serve, stream_reply
from tests.engines import openai_server
from tests.serving.harness import create_workspace, outbox, served, until

KEY = "k" * 32
HELLO = [Message("user", "Hello?")]


class Caller:
    """Calls methods of either client in the same way."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def call(self, url: str, method: str, *values: Any, key: str | None = None, **settings: Any) -> Any:
        """Return the result of a method."""
        if self._kind == "sync":
            with fledge.Client(url, key=key) as client:
                return getattr(client, method)(*values, **settings)

        async def run() -> Any:
            async with fledge.AsyncClient(url, key=key) as client:
                return await getattr(client, method)(*values, **settings)

        return asyncio.run(run())

    def stream(self, url: str, received: list[EndpointAnswer], *, most: int = 0, **settings: Any) -> None:
        """Append the parts of a streamed chat to `received`; close the stream after `most` parts."""
        if self._kind == "sync":
            with fledge.Client(url) as client:
                parts = client.chat(HELLO, stream=True, **settings)
                for part in parts:
                    received.append(part)
                    if len(received) == most:
                        parts.close()
            return

        async def run() -> None:
            async with (
                fledge.AsyncClient(url) as client,
                aclosing(client.chat(HELLO, stream=True, **settings)) as parts,
            ):
                async for part in parts:
                    received.append(part)
                    if len(received) == most:
                        break

        asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


@pytest.fixture
def script() -> Iterator[Script]:
    with serve(Script()) as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[EndpointStatus]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_API_KEY", KEY)
        config = create_workspace(tmp_path_factory.mktemp("client"), engine_cache, "Q: {{question}}", format="chat")
        with served(config, record=True, engine="scripted") as running:
            yield running


@pytest.mark.slow
def test_every_method_with_an_endpoint_of_fledge(endpoint: EndpointStatus, caller: Caller) -> None:
    url = endpoint.url
    answer = caller.call(url, "chat", "why", max_tokens=50)
    assert (answer.text, answer.finish_reason, answer.release) == ("Q: WHY", "stop", "mine/1")
    assert (answer.arm, answer.prompt) == ("champion", "plain/1")
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0
    assert answer.raw["id"] == f"chatcmpl-{answer.request_id}"
    assert caller.call(url, "chat", [{"role": "user", "content": "why"}], prompt="none").text == "WHY"
    assert caller.call(f"{url}/v1#mine@champion", "complete", "why").text == "WHY"

    parts: list[EndpointAnswer] = []
    caller.stream(url, parts, stream_options={"include_usage": True})
    assert "".join(part.text for part in parts) == "Q: HELLO?"
    assert [part.finish_reason for part in parts if part.finish_reason] == ["stop"]
    assert {(part.release, part.prompt) for part in parts} == {("mine/1", "plain/1")}
    assert parts[0].text == ""  # sent before the first token
    assert parts[-1].usage is not None

    by_text = caller.call(url, "predict", ["why", "how"], max_tokens=50)
    assert (by_text.texts, by_text.release) == (("Q: WHY", "Q: HOW"), "mine/1")
    assert caller.call(url, "predict", [{"question": "why"}]).texts == ("Q: WHY",)
    assert caller.call(url, "predict", {"question": ["why", "how"]}).texts == by_text.texts

    assert caller.call(url, "feedback", answer.request_id, 0.5, name="tone", comment="dry", user="me")
    assert until(lambda: answer.request_id in {record.request_id for record in outbox(endpoint)})
    assert "mine" in caller.call(url, "models")
    assert caller.call(url, "ready") is True
    assert caller.call(url, "health") is True


@pytest.mark.slow
def test_invalid_requests_are_refused_by_an_endpoint_of_fledge(endpoint: EndpointStatus, caller: Caller) -> None:
    for key in ("", "wrong"):
        with pytest.raises(InputError, match="rejected the API key") as caught:
            caller.call(endpoint.url, "chat", "why", key=key)
        assert caught.value.hint == "export FLEDGE_API_KEY=..."
    for method, values, settings, message in (
        ("chat", ["why"], {"model": "other"}, "no model 'other' here"),
        ("chat", ["why"], {"temperature": 9}, "refused the request: temperature"),
        ("predict", [[{"text": "why"}]], {}, "column 'question' must be a text"),
        ("feedback", ["0" * 32, True], {"name": "a name"}, "refused the request: name"),
        ("feedback", ["id-9", True], {}, "invalid request id: 'id-9'"),
        ("chat", ["why"], {"temperature": float("nan")}, "cannot be written as JSON"),
    ):
        with pytest.raises(FledgeError, match=message):
            caller.call(endpoint.url, method, *values, **settings)


@pytest.mark.parametrize(
    ("reply", "message", "hint"),
    [
        (
            Reply(401, {"error": {"message": "a valid key\nis needed"}}),
            "rejected the API key: a valid key is needed",
            "export",
        ),
        (Reply(404, {"error": {"message": "no model 'x' here"}}), "no model 'x' here", "/models"),
        (Reply(400, {"message": "too long"}), "refused the request: too long", "/docs"),
        (Reply(429, {"error": "full"}, {"retry-after": "7"}), "is overloaded: full", "retry in 7 s"),
        (Reply(503, {"detail": "loading"}, {"retry-after": "soon"}), "is not ready: loading", "retry in a moment"),
        (Reply(500, b"<html>oh</html>"), "answered 500: <html>oh</html>", "log"),
        (Reply(307, b"", {"location": "/v2"}), "answered 307: Temporary Redirect", "log"),
        (Reply(502, b"x" * 1_000_000), f"answered 502: {'x' * 500}", "log"),
    ],
)
def test_error_status_becomes_one_line_with_a_hint(
    script: Script, caller: Caller, reply: Reply, message: str, hint: str
) -> None:
    received: list[EndpointAnswer] = []
    script.answers += [reply, reply, stream_reply(piece("Here.", "stop"))]
    with pytest.raises(FledgeError) as whole:
        caller.call(script.url, "chat", HELLO)
    with pytest.raises(FledgeError) as stream:
        caller.stream(script.url, received)
    for caught in (whole, stream):
        assert caught.value.message.endswith(message)
        assert "\n" not in caught.value.message
        assert hint in caught.value.hint
    caller.stream(script.url, received)  # the next request succeeds
    assert _text(received) == "Here."


@pytest.mark.parametrize(
    ("reply", "text", "message"),
    [
        (stream_reply(piece("So "), piece("far"), done=False), "So far", "sent an incomplete answer"),
        (stream_reply(piece("So "), done=True), "So ", "sent an incomplete answer"),
        (stream_reply(piece("So "), {"error": {"message": "the engine stopped"}}), "So ", ": the engine stopped"),
        (stream_reply(piece("So "), {"error": "gone"}), "So ", ": gone"),
        (stream_reply(b"<html>"), "", "no valid event of OpenAI's protocol: <html>"),
        (stream_reply(b"[1]"), "", "no valid event of OpenAI's protocol"),
        (stream_reply(b'{"choices": 5}'), "", "no valid event of OpenAI's protocol"),
        (stream_reply(b'{"choices": [{"delta": "x"}]}'), "", "no valid event of OpenAI's protocol"),
        (Reply(200, events(piece("So ")), {"content-length": "9000"}), "So ", "sent an incomplete answer"),
        (Reply(200, b"", {}), "", "sent an incomplete answer"),
    ],
)
def test_broken_stream_raises_after_the_received_text(
    script: Script, caller: Caller, reply: Reply, text: str, message: str
) -> None:
    script.answers.append(reply)
    received: list[EndpointAnswer] = []
    with pytest.raises(FledgeError) as caught:
        caller.stream(script.url, received)
    assert _text(received) == text
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("body", [b"<html>", [1], {"choices": 5}, {"choices": []}, {"choices": [{"message": "x"}]}])
def test_invalid_bodies_are_refused(script: Script, caller: Caller, body: Any) -> None:
    script.answers.append(Reply(200, body))
    script.paths |= {path: Reply(200, body) for path in ("/invocations", "/feedback", "/v1/models", "/ready")}
    for method, values in (
        ("chat", ["Hello?"]),
        ("predict", [["Hello?"]]),
        ("feedback", ["0" * 32, True]),
        ("models", []),
        ("ready", []),
    ):
        with pytest.raises(FledgeError, match="sent no valid ") as caught:
            caller.call(script.url, method, *values)
        assert "/v1/models" in caught.value.hint


def test_events_of_other_servers_are_read(script: Script, caller: Caller) -> None:
    """Events without choices or content, with lone surrogates, Unicode line separators and other answers."""
    script.answers.append(
        stream_reply(
            {"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]},
            piece("a\u2028b"),
            {"choices": [{"index": 1, "delta": {"content": "another"}, "finish_reason": "stop"}]},
            '{"choices": [{"delta": {"content": "c\u2028d\x85e"}}]}'.encode(),
            b'{"choices": [{"delta": {"content": "\\ud83d"}}]}',
            {"choices": [{"delta": None, "finish_reason": "content_filter"}]},
            {"choices": [], "usage": {"total_tokens": 3}},
            {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        )
    )
    received: list[EndpointAnswer] = []
    caller.stream(script.url, received)
    assert _text(received) == "a\u2028bc\u2028d\x85e?"
    assert [part.usage for part in received[-2:]] == [None, Usage(1, 2)]


def test_closing_a_stream_closes_the_connection(caller: Caller) -> None:
    server = openai_server.Server(words=("on ",) * 10_000, pause_s=0.02)
    others = set(threading.enumerate())
    with openai_server.serve(server):
        received: list[EndpointAnswer] = []
        caller.stream(server.url, received, most=3)
        assert until(lambda: not any("process_request" in one.name for one in set(threading.enumerate()) - others))
    assert len(received) == 3


def test_endpoint_that_is_not_ready(script: Script, caller: Caller) -> None:
    script.paths |= {"/ready": Reply(503, {"ready": False}), "/health": Reply(500)}
    assert caller.call(script.url, "ready") is False
    assert caller.call(script.url, "health") is False


def test_unreachable_endpoint_is_reported_without_the_password(caller: Caller, port: int) -> None:
    for method, values in (("chat", ["Hello?"]), ("ready", []), ("feedback", ["0" * 32, True])):
        with pytest.raises(FledgeError, match="nothing answers at http://") as caught:
            caller.call(f"http://me:secret@127.0.0.1:{port}", method, *values)
        assert "fledge serve" in caught.value.hint
        assert "secret" not in caught.value.message


def test_invalid_url_is_refused(caller: Caller) -> None:
    for url in ("127.0.0.1:5001", "ftp://127.0.0.1", "http://", "http://[", "http://127.0.0.1:99999999", ""):
        with pytest.raises(InputError, match="invalid endpoint URL"):
            caller.call(url, "ready")


def test_key_and_model_are_sent(script: Script, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_API_KEY", " mine ")
    for url, key, settings in (
        (f"{script.url}/", None, {}),
        (f"{script.url}/v1#default", "other", {}),
        (f"{script.url}#default", "", {"model": "mine@challenger"}),
    ):
        script.answers.append(Reply(200, {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}))
        assert caller.call(url, "chat", HELLO, key=key, **settings) == EndpointAnswer(text="Hi", finish_reason="stop")
    assert [path for path, _, _ in script.requests] == ["/v1/chat/completions"] * 3
    assert [sent.get("model") for _, sent, _ in script.requests] == [None, "default", "mine@challenger"]
    assert [key for _, _, key in script.requests] == ["Bearer mine", "Bearer other", ""]
    with pytest.raises(InputError, match="the key contains an invalid character"):
        caller.call(script.url, "ready", key="schlüssel")
    monkeypatch.setenv("FLEDGE_API_KEY", "schlüssel")
    with pytest.raises(InputError, match="FLEDGE_API_KEY contains an invalid character"):
        caller.call(script.url, "ready")


def _text(received: list[EndpointAnswer]) -> str:
    return "".join(part.text for part in received)
