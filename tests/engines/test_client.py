"""The client of an engine process, with a real socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from fledge.core.frames import ASK, CANCEL, PIECES, Frames, frame
from fledge.core.messages import Ask, Cancel, Piece
from fledge.engines.client import DeadlineError, EngineClient
from tests.conftest import PATIENCE_S


async def _wait_for(condition: "asyncio.Event") -> None:
    await asyncio.wait_for(condition.wait(), PATIENCE_S)


def test_a_broken_connection_is_restored(tmp_path: Path) -> None:
    async def run() -> None:
        lines: list[asyncio.StreamWriter] = []
        connected = asyncio.Event()

        def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            lines.append(writer)
            connected.set()

        address = str(tmp_path / "engine")
        async with await asyncio.start_unix_server(take, address):
            client = EngineClient(4)

            def is_ready() -> bool:
                return client.ready

            await asyncio.gather(client.connect(address), client.connect(address))
            await _wait_for(connected)
            assert is_ready()
            assert len(lines) == 1
            connected.clear()
            lines[0].close()
            await _wait_for(connected)
            assert is_ready()
            client.close("stopped")
            connected.clear()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connected.wait(), 2)
            assert not is_ready()
            for line in lines:
                line.close()

    asyncio.run(run())


class _Engine:
    """Answer each prompt with five pieces; with `ends`, the last one finishes the answer."""

    def __init__(self, *, ends: bool) -> None:
        self.ends = ends
        self.cancelled: list[str] = []
        self.left = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Frames()
        while data := await reader.read(1 << 16):
            for kind, body in frames.feed(data):
                if kind == CANCEL:
                    self.cancelled.append(msgspec.msgpack.decode(body, type=Cancel).id)
                elif kind == ASK:
                    identity = msgspec.msgpack.decode(body, type=Ask).id
                    for number in range(5):
                        reason = "stop" if number == 4 and self.ends else None
                        piece = Piece(identity, text="x", token_ids=[1], finish_reason=reason)
                        writer.write(frame(PIECES, msgspec.msgpack.encode([piece])))
        writer.close()
        await writer.wait_closed()
        self.left.set()


@asynccontextmanager
async def _asking(engine: _Engine, address: str, max_concurrency: int) -> AsyncIterator[EngineClient]:
    async with await asyncio.start_unix_server(engine.take, address):
        client = EngineClient(max_concurrency)
        await client.connect(address)
        try:
            yield client
        finally:
            client.close("stopped")
            await _wait_for(engine.left)


async def _wait_until(condition: object) -> None:
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.01)


def test_a_stalled_reader_frees_the_engine_at_the_deadline(tmp_path: Path) -> None:
    async def run() -> None:
        engine = _Engine(ends=False)
        async with _asking(engine, str(tmp_path / "engine"), 1) as client:
            answers = client.answers([Ask("", {}, text="a"), Ask("", {}, text="b")], 1, 1.0)
            await anext(answers)  # then stop reading
            await asyncio.wait_for(_wait_until(lambda: engine.cancelled), PATIENCE_S)
            await asyncio.wait_for(client.slots.acquire(), PATIENCE_S)
            assert client.running == 0
            with pytest.raises(DeadlineError, match=r"more than 1 s"):
                await anext(answers)

    asyncio.run(run())


def test_a_finished_answer_frees_its_slot_before_it_is_read_to_the_end(tmp_path: Path) -> None:
    async def run() -> None:
        async with _asking(_Engine(ends=True), str(tmp_path / "engine"), 1) as client:
            answers = client.answers([Ask("", {}, text="a")], 1, 1.0)
            read = [await anext(answers)]
            await asyncio.wait_for(client.slots.acquire(), PATIENCE_S)
            await asyncio.sleep(1.2)
            read += [item async for item in answers]
            assert "".join(piece.text for _, piece in read) == "xxxxx"
            assert read[-1][1].finish_reason == "stop"

    asyncio.run(run())
