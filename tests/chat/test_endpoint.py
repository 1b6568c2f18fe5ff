"""Endpoints as partners, over HTTP: those of other servers, and failures."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fledge.chat.endpoint_partner import EndpointPartner
from fledge.chat.partner import AnswerPart
from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Message
from tests.chat.scripted_server import Reply, Script, piece, serve, stream_reply
from tests.engines import openai_server
from tests.serving.harness import until

Connect = Callable[..., EndpointPartner]

MODELS = Reply(200, {"object": "list", "data": [{"id": "first"}, {"id": "second"}]})
READY = Reply(200, {"ready": True, "model": "mine", "version": 1})
HELLO = [Message("user", "Hello?")]
REQUEST_ID = "9" * 32


@pytest.fixture
def script() -> Iterator[Script]:
    with serve(Script({"/v1/models": MODELS})) as running:
        yield running


@pytest.fixture
def connect(script: Script) -> Iterator[Connect]:
    with ExitStack() as stack:

        def open_partner(path: str = "/v1", url: str = "") -> EndpointPartner:
            partner = EndpointPartner((url or script.url) + path)
            stack.callback(partner.close)
            return partner

        yield open_partner


def _text(parts: Iterator[AnswerPart]) -> str:
    return "".join(part.text for part in parts)


def _chat_requests(script: Script) -> list[tuple[str, Any, str]]:
    return [item for item in script.requests if item[1] is not None]


def test_openai_server_is_asked_with_its_key_and_its_first_model(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    monkeypatch.setenv("FLEDGE_API_KEY", "not for others")
    with openai_server.serve(openai_server.Server()) as server:
        partner = connect("", server.url)
        parts = list(partner.ask([Message("system", "s"), Message("user", "u")], {"temperature": 0.5, "stop": ("a",)}))
        assert [part.text for part in parts if part.text] == ["One ", "two ", "three."]
        assert parts[-2:] == [AnswerPart("", "stop"), AnswerPart()]  # the last event holds usage only
        assert server.bodies == [
            {
                "model": "first",  # the first in its list
                "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
                "stream": True,
                "temperature": 0.5,
                "stop": ["a"],
            }
        ]
        assert set(server.keys) == {"Bearer sk-mine"}
        list(connect("#second", server.url).ask(HELLO, {}, plain=True))
        assert server.bodies[1] == {"model": "second", "messages": server.bodies[1]["messages"], "stream": True}
        with pytest.raises(InputError, match="feedback needs a fledge endpoint"):
            partner.feedback("", True, "")


def test_fledge_endpoint_gets_its_own_key_and_no_model(
    script: Script, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-fledge")
    monkeypatch.setenv("FLEDGE_API_KEY", " mine ")
    script.paths |= {"/ready": READY, "/feedback": Reply(200, {"feedback_id": "1"})}
    for path in ("", "/", "/v1", "/v1/"):
        script.answers.append(
            stream_reply(
                piece("Hi"),
                piece("", "stop"),
                x_request_id=REQUEST_ID,
                x_fledge_turns_left_out="3",
                x_fledge_prompt="gr%C3%B6%C3%9Fe/1",
            )
        )
        script.requests.clear()
        partner = connect(path)
        assert partner.description == f"first at {script.url.removeprefix('http://')}"
        first, *_ = partner.ask(HELLO, {})
        assert first == AnswerPart(request_id=REQUEST_ID, turns_left_out=3, prompt="größe/1")
        assert script.requests[0] == ("/ready", None, "")  # no key before it is known to be fledge
        (request,) = _chat_requests(script)
        assert "model" not in request[1]
        assert {key for _, _, key in script.requests[1:]} == {"Bearer mine"}
    partner.feedback(REQUEST_ID, False, "dull")
    sent = {"request_id": REQUEST_ID, "value": False, "name": "thumbs", "comment": "dull", "user": ""}
    assert script.requests[-1] == ("/feedback", sent, "Bearer mine")
    script.answers.append(stream_reply(piece("Hi", "stop")))
    list(connect("#mine@challenger").ask(HELLO, {}))
    assert script.requests[-1][1]["model"] == "mine@challenger"


def test_session_continues_after_a_refused_question(script: Script, connect: Connect) -> None:
    script.answers += [Reply(400, {"message": "too long"}), stream_reply(piece("Here.", "stop"))]
    partner = connect()
    with pytest.raises(InputError, match="refused the request: too long") as caught:
        list(partner.ask(HELLO, {}))
    assert "/reset" in caught.value.hint
    assert _text(partner.ask(HELLO, {})) == "Here."


def test_closing_an_answer_closes_the_connection(connect: Connect) -> None:
    server = openai_server.Server(words=("on ",) * 10_000, pause_s=0.02)
    others = set(threading.enumerate())
    with openai_server.serve(server):
        parts = connect("", server.url).ask(HELLO, {})
        while not next(parts).text:
            pass
        parts.close()
        assert until(lambda: not any("process_request" in one.name for one in set(threading.enumerate()) - others))


def test_unreachable_endpoint_is_refused_with_a_hint(connect: Connect, port: int) -> None:
    for url in (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/v1#x"):
        with pytest.raises(FledgeError, match=r"nothing answers at http://127\.0\.0\.1") as caught:
            connect("", url)
        assert caught.value.exit_code == 1
        assert "fledge serve" in caught.value.hint


def test_server_that_stops_between_questions(script: Script, connect: Connect) -> None:
    with serve(Script({"/v1/models": MODELS}, [stream_reply(piece("Hi", "stop"))])) as other:
        partner = connect(url=other.url)
        assert _text(partner.ask(HELLO, {})) == "Hi"
    with pytest.raises(FledgeError, match="nothing answers at"):
        list(partner.ask(HELLO, {}))


def test_rejected_or_invalid_key_is_refused_at_the_start(
    script: Script, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.paths["/v1/models"] = Reply(401, {"error": {"message": "a valid key is needed"}})
    for variable in ("OPENAI_API_KEY", "FLEDGE_API_KEY"):
        if variable == "FLEDGE_API_KEY":
            script.paths["/ready"] = READY
        with pytest.raises(InputError, match="rejected the API key") as caught:
            connect()
        assert caught.value.hint == f"export {variable}=..."
        monkeypatch.setenv(variable, "schlüssel")
        with pytest.raises(InputError, match=f"{variable} contains an invalid character"):
            connect()


def test_server_without_a_model_list_needs_a_model_name(script: Script, connect: Connect) -> None:
    for reply in (Reply(404), Reply(200, b"<html>"), Reply(200, {"data": {}}), Reply(200, [1])):
        script.paths["/v1/models"] = reply
        with pytest.raises(InputError, match="lists no models") as caught:
            connect()
        assert caught.value.hint == f"name one: {script.url}/v1#NAME"
    script.answers.append(stream_reply(piece("Hi", "stop")))
    assert _text(connect("/v1#x").ask(HELLO, {})) == "Hi"
