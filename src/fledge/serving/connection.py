"""Connections: uvicorn's protocol, with limits on the size of headers and on the time that they take."""

import asyncio
import json
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fledge.serving.errors import openai_error

ABORT = "fledge.abort"  # in a scope's extensions: ends the connection without waiting for its reader
MAXIMUM_HEADER_BYTES = 65_536
MAXIMUM_HEADERS = 200


class Connection(HttpToolsProtocol):
    """One client's connection. `header_timeout_s` is set by `connection_class`."""

    header_timeout_s = 10.0
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_over()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAXIMUM_HEADER_BYTES:
            self._refuse(431, f"the headers have more than {MAXIMUM_HEADER_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAXIMUM_HEADERS:
            raise ValueError("too many headers")  # the parser makes a 400 of it
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_over()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _expect_head(self) -> None:
        self._head_is_over()
        self._in_head, self._head_bytes = True, 0
        self._timer = self.loop.call_later(self.header_timeout_s, self._head_is_late)

    def _head_is_over(self) -> None:
        self._in_head = False
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        if self._head_bytes:
            self._refuse(408, f"the headers took more than {self.header_timeout_s:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        if self.cycle and not self.cycle.response_complete:  # nonsense behind a request that is being answered
            self.transport.abort()
            return
        body = json.dumps(openai_error(status, message)).encode()
        head = (
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {secrets.token_hex(16)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


def connection_class(header_timeout_s: float) -> type[Any]:
    """`Connection` with this patience."""
    return type("Connection", (Connection,), {"header_timeout_s": header_timeout_s})
