"""The endpoint's line to an engine, against a real socket."""

import asyncio
from pathlib import Path

import pytest

from fledge.serving.engine_client import EngineClient


async def _soon(condition: "asyncio.Event") -> None:
    await asyncio.wait_for(condition.wait(), 10)


def test_a_line_that_breaks_while_both_ends_live_is_there_again(tmp_path: Path) -> None:
    async def run() -> None:
        lines: list[asyncio.StreamWriter] = []
        came = asyncio.Event()

        def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            lines.append(writer)
            came.set()

        address = str(tmp_path / "engine")
        async with await asyncio.start_unix_server(take, address):
            client = EngineClient(4)

            def is_ready() -> bool:
                return client.ready

            await asyncio.gather(client.connect(address), client.connect(address))
            await _soon(came)
            assert is_ready()
            assert len(lines) == 1
            came.clear()
            lines[0].close()
            await _soon(came)
            assert is_ready()
            client.close("stopped")
            came.clear()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(came.wait(), 2)
            assert not is_ready()
            for line in lines:
                line.close()

    asyncio.run(run())
