"""Endpoints that are not fledge's, and what goes wrong with any: over real HTTP."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fledge.chat.endpoint_partner import EndpointPartner
from fledge.chat.partner import AnswerPart
from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Message
from tests.chat.scripted_server import Reply, Script, piece, serve, streamed
from tests.engines import openai_server
from tests.serving.harness import until

Meet = Callable[..., EndpointPartner]

MODELS = Reply(200, {"object": "list", "data": [{"id": "first"}, {"id": "second"}]})
READY = Reply(200, {"ready": True, "model": "mine", "version": 1})
HELLO = [Message("user", "Hello?")]
IDENTITY = "9" * 32


@pytest.fixture
def script() -> Iterator[Script]:
    with serve(Script({"/v1/models": MODELS})) as running:
        yield running


@pytest.fixture
def meet(script: Script) -> Iterator[Meet]:
    with ExitStack() as stack:

        def met(path: str = "/v1", url: str = "") -> EndpointPartner:
            partner = EndpointPartner((url or script.url) + path)
            stack.callback(partner.close)
            return partner

        yield met


def _text(parts: Iterator[AnswerPart]) -> str:
    return "".join(part.text for part in parts)


def _chats(script: Script) -> list[tuple[str, Any, str]]:
    return [item for item in script.asked if item[1] is not None]


def test_a_server_of_openais_protocol(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    monkeypatch.setenv("FLEDGE_API_KEY", "not for others")
    with openai_server.serve(openai_server.Server()) as server:
        partner = meet("", server.url)
        parts = list(partner.ask([Message("system", "s"), Message("user", "u")], {"temperature": 0.5, "stop": ("a",)}))
        assert [part.text for part in parts if part.text] == ["One ", "two ", "three."]
        assert parts[-2:] == [AnswerPart("", "stop"), AnswerPart()]  # the last event holds usage only
        assert server.bodies == [
            {
                "model": "first",  # that it lists
                "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
                "stream": True,
                "temperature": 0.5,
                "stop": ["a"],
            }
        ]
        assert set(server.keys) == {"Bearer sk-mine"}
        list(meet("#second", server.url).ask(HELLO, {}, plain=True))
        assert server.bodies[1] == {"model": "second", "messages": server.bodies[1]["messages"], "stream": True}
        with pytest.raises(InputError, match="feedback needs a fledge endpoint"):
            partner.feedback("", True, "")


def test_an_endpoint_of_fledge_gets_its_own_key_and_chooses_the_model(
    script: Script, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-fledge")
    monkeypatch.setenv("FLEDGE_API_KEY", " mine ")
    script.paths |= {"/ready": READY, "/feedback": Reply(200, {"feedback_id": "1"})}
    for path in ("", "/", "/v1", "/v1/"):
        script.answers.append(
            streamed(
                piece("Hi"),
                piece("", "stop"),
                x_request_id=IDENTITY,
                x_fledge_turns_left_out="3",
                x_fledge_prompt="gr%C3%B6%C3%9Fe/1",
            )
        )
        script.asked.clear()
        partner = meet(path)
        assert partner.description == f"first at {script.url.removeprefix('http://')}"
        first, *_ = partner.ask(HELLO, {})
        assert first == AnswerPart(request_id=IDENTITY, turns_left_out=3, prompt="größe/1")
        assert script.asked[0] == ("/ready", None, "")  # before it is known whose key it may see
        (asked,) = _chats(script)
        assert "model" not in asked[1]
        assert {key for _, _, key in script.asked[1:]} == {"Bearer mine"}
    partner.feedback(IDENTITY, False, "dull")
    sent = {"request_id": IDENTITY, "value": False, "name": "thumbs", "comment": "dull", "user": ""}
    assert script.asked[-1] == ("/feedback", sent, "Bearer mine")
    script.answers.append(streamed(piece("Hi", "stop")))
    list(meet("#mine@challenger").ask(HELLO, {}))
    assert script.asked[-1][1]["model"] == "mine@challenger"


def test_a_question_that_is_refused_can_be_asked_otherwise(script: Script, meet: Meet) -> None:
    script.answers += [Reply(400, {"message": "too long"}), streamed(piece("Here.", "stop"))]
    partner = meet()
    with pytest.raises(InputError, match="does not take the request: too long") as caught:
        list(partner.ask(HELLO, {}))
    assert "/reset" in caught.value.hint
    assert _text(partner.ask(HELLO, {})) == "Here."


def test_leaving_an_answer_hangs_up(meet: Meet) -> None:
    server = openai_server.Server(words=("on ",) * 10_000, pause_s=0.02)
    others = set(threading.enumerate())
    with openai_server.serve(server):
        parts = meet("", server.url).ask(HELLO, {})
        while not next(parts).text:
            pass
        parts.close()
        assert until(lambda: not any("process_request" in one.name for one in set(threading.enumerate()) - others))


def test_nobody_there(meet: Meet, port: int) -> None:
    for url in (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/v1#x"):
        with pytest.raises(FledgeError, match=r"nothing answers at http://127\.0\.0\.1") as caught:
            meet("", url)
        assert caught.value.exit_code == 1
        assert "fledge serve" in caught.value.hint


def test_a_server_that_goes_away_between_two_questions(script: Script, meet: Meet) -> None:
    with serve(Script({"/v1/models": MODELS}, [streamed(piece("Hi", "stop"))])) as other:
        partner = meet(url=other.url)
        assert _text(partner.ask(HELLO, {})) == "Hi"
    with pytest.raises(FledgeError, match="nothing answers at"):
        list(partner.ask(HELLO, {}))


def test_a_key_that_is_wrong_or_none_at_all_is_told_at_the_start(
    script: Script, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.paths["/v1/models"] = Reply(401, {"error": {"message": "a valid key is needed"}})
    for variable in ("OPENAI_API_KEY", "FLEDGE_API_KEY"):
        if variable == "FLEDGE_API_KEY":
            script.paths["/ready"] = READY
        with pytest.raises(InputError, match="rejected the API key") as caught:
            meet()
        assert caught.value.hint == f"export {variable}=..."
        monkeypatch.setenv(variable, "schlüssel")
        with pytest.raises(InputError, match=f"{variable} holds a character"):
            meet()


def test_a_server_that_lists_nothing_wants_a_name(script: Script, meet: Meet) -> None:
    for reply in (Reply(404), Reply(200, b"<html>"), Reply(200, {"data": {}}), Reply(200, [1])):
        script.paths["/v1/models"] = reply
        with pytest.raises(InputError, match="lists no models") as caught:
            meet()
        assert caught.value.hint == f"name one: {script.url}/v1#NAME"
    script.answers.append(streamed(piece("Hi", "stop")))
    assert _text(meet("/v1#x").ask(HELLO, {})) == "Hi"
