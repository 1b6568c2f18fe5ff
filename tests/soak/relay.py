"""A TCP relay that simulates an unavailable tracking server."""

import asyncio
import contextlib
import threading
from typing import Literal

Mode = Literal["normal", "refusing", "failing", "silent"]
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Relay:
    """Forwards connections on `port` to the server on `target_port` in mode `normal`.

    `refusing` closes the port, `failing` answers every request with 500, `silent` accepts connections and never
    responds. Changing the mode closes open connections.
    """

    def __init__(self, port: int, target_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port, self._target_port = port, target_port
        self._mode: Mode = "normal"
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")
        self._thread.start()
        self.set_mode("normal")

    def set_mode(self, mode: Mode) -> None:
        asyncio.run_coroutine_threadsafe(self._set_mode(mode), self._loop).result(10)

    def close(self) -> None:
        self.set_mode("refusing")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _set_mode(self, mode: Mode) -> None:
        self._mode = mode
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if mode != "refusing":
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._handle(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "silent":
            await asyncio.Event().wait()
        elif self._mode == "failing":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(FAILURE)
            await writer.drain()
        else:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_forward(reader, target_writer))
                    group.create_task(_forward(target_reader, writer))
            finally:
                target_writer.close()


async def _forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while content := await source.read(1 << 16):
        target.write(content)
        await target.drain()
    target.close()
