"""What stands before a tracking server and has it be away: refusing, failing, or silent."""

import asyncio
import contextlib
import threading
from typing import Literal

Mood = Literal["well", "refusing", "failing", "silent"]
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Relay:
    """Passes connections to `port` on to the server at `behind` while it is `well`.

    `refusing`, nothing listens there; `failing`, every request is answered with 500; `silent`, connections are taken
    and nothing ever comes. A change of mood ends what is open.
    """

    def __init__(self, port: int, behind: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port, self._behind = port, behind
        self._mood: Mood = "well"
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")
        self._thread.start()
        self.become("well")

    def become(self, mood: Mood) -> None:
        asyncio.run_coroutine_threadsafe(self._become(mood), self._loop).result(10)

    def close(self) -> None:
        self.become("refusing")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _become(self, mood: Mood) -> None:
        self._mood = mood
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if mood != "refusing":
            self._server = await asyncio.start_server(self._taken, "127.0.0.1", self._port)

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._attend(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mood == "silent":
            await asyncio.Event().wait()
        elif self._mood == "failing":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(FAILURE)
            await writer.drain()
        else:
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pass(reader, behind_writer))
                    both.create_task(_pass(behind_reader, writer))
            finally:
                behind_writer.close()


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while content := await source.read(1 << 16):
        target.write(content)
        await target.drain()
    target.close()
