"""Server-sent events, read by a standard parser for any values and any chunking of the bytes."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from fledge.core.errors import FledgeError, InputError
from fledge.engines.engine import EngineGoneError
from fledge.serving.events import EventStream, start_generation
from fledge.serving.trace import RequestTrace

ROOT = Path(__file__).parent.parent.parent
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
EVENTS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=6)


class Payload(Struct):
    """An event that carries anything."""

    value: dict[str, Any]


class Reader:
    """Parser of the standard (WHATWG, 9.2.6): takes bytes in any parts and collects the `data` of each event."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._bytes = b""
        self._data: list[str] = []

    def feed(self, part: bytes) -> None:
        self._bytes += part
        while (end := self._line_end()) is not None:
            line, self._bytes = self._bytes[: end[0]], self._bytes[end[1] :]
            self._line(line.decode())

    def _line_end(self) -> tuple[int, int] | None:
        for at, byte in enumerate(self._bytes):
            if byte == ord("\n"):
                return at, at + 1
            if byte == ord("\r") and at + 1 < len(self._bytes):
                return at, at + (2 if self._bytes[at + 1] == ord("\n") else 1)
        return None

    def _line(self, line: str) -> None:
        if not line:
            if self._data:
                self.events.append("\n".join(self._data))
            self._data = []
            return
        name, _, value = line.partition(":")
        assert name == "data", "only events are sent"
        self._data.append(value.removeprefix(" "))


def _send_stream(events: Callable[[], AsyncGenerator[Payload]], trace: RequestTrace) -> tuple[bytes, list[Any]]:
    """Send a stream; return its body and its messages."""
    messages: list[Any] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("a stream does not read from the client")

    async def run() -> None:
        await EventStream(events(), trace, {"x-fledge-arm": "champion"})({"type": "http"}, receive, send)

    asyncio.run(run())
    return b"".join(message["body"] for message in messages[1:]), messages


def _read(body: bytes, places: list[int]) -> list[str]:
    cuts = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    reader = Reader()
    for start, stop in itertools.pairwise(cuts):
        reader.feed(body[start:stop])
    return reader.events


@settings(deadline=None)
@given(EVENTS, st.lists(st.integers(0, 10_000)))
def test_events_survive_any_chunking(values: list[dict[str, Any]], places: list[int]) -> None:
    async def events() -> AsyncGenerator[Payload]:
        for value in values:
            yield Payload(value)

    trace = RequestTrace("chat")
    body, messages = _send_stream(events, trace)
    found = _read(body, places)
    assert [json.loads(data)["value"] for data in found[:-1]] == values
    assert found[-1] == "[DONE]"
    assert body.endswith(b"\n\n")
    assert len(messages) == len(values) + 2  # one message for each event
    assert [message["more_body"] for message in messages[1:]] == [True] * len(values) + [False]
    assert (trace.status, trace.error) == (0, "")


@settings(deadline=None)
@given(EVENTS, st.text(), st.lists(st.integers(0, 10_000)))
def test_error_during_a_stream_is_the_last_event(values: list[dict[str, Any]], message: str, places: list[int]) -> None:
    async def events() -> AsyncGenerator[Payload]:
        for value in values:
            yield Payload(value)
        raise EngineGoneError(message)

    trace = RequestTrace("chat")
    body, _ = _send_stream(events, trace)
    found = _read(body, places)
    assert [json.loads(data)["value"] for data in found[:-1]] == values
    error = json.loads(found[-1])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == message[:1000]
    assert (trace.status, trace.error) == (503, message)


def test_internal_error_details_go_to_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async def events() -> AsyncGenerator[Payload]:
        yield Payload({"n": 1})
        raise FledgeError("/home/ann/model.bin is broken")

    trace = RequestTrace("chat")
    body, messages = _send_stream(events, trace)
    assert b"ann" not in body
    assert trace.request_id.encode() in body
    assert trace.status == 500
    assert "/home/ann/model.bin is broken" in caplog.text
    head = dict(messages[0]["headers"])
    assert head[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert head[b"cache-control"] == b"no-cache"
    assert head[b"x-fledge-arm"] == b"champion"
    assert b"content-length" not in head


def test_broken_stream_is_recorded_as_500() -> None:
    async def events() -> AsyncGenerator[Payload]:
        yield Payload({"n": 1})
        raise ZeroDivisionError

    trace = RequestTrace("chat")
    with pytest.raises(ZeroDivisionError):
        _send_stream(events, trace)
    assert trace.finish(200).status == 500


def test_error_before_the_first_piece_is_raised() -> None:
    closed = []

    async def pieces() -> AsyncGenerator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def refused(prompt: str) -> AsyncGenerator[int]:
        if not prompt:
            raise InputError("the prompt is empty")
        yield 1

    async def run() -> list[int]:
        with pytest.raises(InputError):
            await start_generation(refused(""))
        left = await start_generation(pieces())
        assert await anext(left) == 1
        await left.aclose()  # leaving early closes the source
        return [piece async for piece in await start_generation(pieces())]

    assert asyncio.run(run()) == [1, 2]
    assert closed == [True, True]


@pytest.mark.soak
def test_properties_with_ten_thousand_examples() -> None:
    """Run the property tests of events, tables and stop sequences with the profile `soak`."""
    files = ["tests/serving/test_events.py", "tests/serving/test_tables.py", "tests/engines/test_text.py"]
    command = [sys.executable, "-m", "pytest", "-q", "--hypothesis-profile", "soak", "--timeout", "7200"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
