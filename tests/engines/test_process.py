"""The engine process: it answers invalid requests with errors and keeps running."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from fledge.core.frames import ASK, CANCEL, Frames, frame
from fledge.core.messages import Ask, Cancel, Piece

Connect = Callable[[Path], "Line"]

PROGRAM = """
import socket, sys
from fledge.engines import process, selection
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot
from fledge.engines.scripted import ScriptedEngine
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
listener.listen()
import os
engine = ScriptedEngine() if sys.argv[2] == "scripted" else selection.load(
    EngineSettings(cache=sys.argv[2]), snapshot.resolve("embedded"))
os.rename(sys.argv[1] + ".new", sys.argv[1])
process.EngineServer(engine, listener).run()
"""


class Line:
    """The endpoint's side of a connection."""

    def __init__(self, address: Path) -> None:
        deadline = time.monotonic() + 120
        while not address.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(str(address))
        self._frames = Frames()
        self._pieces: list[Piece] = []

    def send(self, kind: int, message: Ask | Cancel) -> None:
        self._socket.sendall(frame(kind, msgspec.msgpack.encode(message)))

    def next(self) -> Piece:
        while not self._pieces:
            for _, body in self._frames.feed(self._socket.recv(7)):  # splits the frames
                self._pieces += msgspec.msgpack.decode(body, type=list[Piece])
        return self._pieces.pop(0)

    def until(self, ended: Callable[[Piece], bool]) -> list[Piece]:
        pieces = [self.next()]
        while not ended(pieces[-1]):
            pieces.append(self.next())
        return pieces

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that opens connections; they are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda address: stack.enter_context(contextlib.closing(Line(address)))


def _run_engine(tmp_path: Path, engine: str) -> Iterator[Path]:
    address = tmp_path / "e"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(address), engine])
    yield address
    process.kill()
    process.wait()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Path]:
    yield from _run_engine(tmp_path, "scripted")


@pytest.fixture
def embedded(tmp_path: Path, engine_cache: Path) -> Iterator[Path]:
    yield from _run_engine(tmp_path, str(engine_cache.parent))


@pytest.mark.parametrize(
    "params",
    [{"top_p": 1e-9}, {"max_tokens": 0}, {"stop": ["x" * 200]}, {"nonsense": 1}],
)
def test_bad_settings_are_refused_and_the_next_request_is_answered(
    params: dict[str, object], scripted: Path, connect: Connect
) -> None:
    line = connect(scripted)
    line.send(ASK, Ask("bad", params, text="x"))
    refused = line.next()
    line.send(ASK, Ask("good", {}, text="x"))
    answered = line.next()
    assert (refused.id, refused.error_kind) == ("bad", "InputError")
    assert (answered.id, answered.text, answered.finish_reason) == ("good", "X", "stop")


def test_an_answer_is_streamed_or_whole(scripted: Path, connect: Connect) -> None:
    line = connect(scripted)
    line.send(ASK, Ask("pieces", {"n": 2, "logprobs": True}, messages=[("user", "one two three")]))
    pieces = [line.next() for _ in range(6)]
    assert "".join(piece.text for piece in pieces if piece.index == 0) == "ONE TWO THREE"
    assert [piece.finish_reason for piece in pieces if piece.index == 1] == [None, None, "stop"]
    line.send(ASK, Ask("whole", {"n": 2}, text="one two three", stream=False))
    wholes = [line.next(), line.next()]
    assert [(piece.index, piece.text, len(piece.token_ids)) for piece in wholes] == [
        (index, "ONE TWO THREE", 3) for index in (0, 1)
    ]
    assert all(piece.finish_reason == "stop" and piece.first_token_ns for piece in wholes)


@pytest.mark.slow
def test_cancelled_answers_and_those_of_a_closed_connection_end(embedded: Path, connect: Connect) -> None:
    line = connect(embedded)
    long = {"max_tokens": 200, "ignore_eos": True}
    line.send(ASK, Ask("long", long, text="x"))
    line.next()
    line.send(CANCEL, Cancel("long"))
    ended = line.until(lambda piece: piece.finish_reason is not None)
    assert ended[-1].finish_reason == "cancelled"
    for number in range(8):
        line.send(ASK, Ask(f"left {number}", long, text="x"))
    line.next()
    line.close()
    again = connect(embedded)
    again.send(ASK, Ask("after", {"max_tokens": 4}, text="What is MLOps?", stream=False))
    assert again.next().finish_reason in ("stop", "length")


def test_invalid_bytes_close_only_their_own_connection(scripted: Path, connect: Connect) -> None:
    line = connect(scripted)
    with socket.socket(socket.AF_UNIX) as bad:
        bad.connect(str(scripted))
        bad.sendall(b"\xff" * 4096)
        bad.settimeout(120)
        with contextlib.suppress(ConnectionResetError):  # the engine closed with unread bytes
            assert bad.recv(100) == b""
    line.send(ASK, Ask("good", {}, text="x"))
    assert line.next().text == "X"
