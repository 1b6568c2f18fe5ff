"""Connections: uvicorn's HTTP protocol with limits on the size of headers and on the time of each phase."""

import asyncio
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from fledge.core.limits import Limits
from fledge.serving.errors import openai_error
from fledge.serving.response_models import encode

GONE = "fledge.gone"  # in a scope's extensions: why the connection was lost
MAXIMUM_HEADER_BYTES = 65_536
MAXIMUM_HEADERS = 200
MAXIMUM_PIPELINED = 32  # requests that a client may send before the first response


class Connection(HttpToolsProtocol):
    """One client's connection. A timer limits every phase: one of this class, or one of the application."""

    limits = Limits()  # set by `connection_class`
    _notes: dict[str, Any]
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    _in_head = True
    _started = False
    _chunk_has_body = False
    _unparsed = 0  # bytes received since the parser's last callback
    _head_bytes = 0
    _refusal = (400, "")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._notes = {}
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._notes.setdefault(GONE, "the client hung up")
        self.pipeline.clear()
        if self._running is not None:  # uvicorn notifies only the latest request, which may still be queued
            self._running.disconnected = True
            self._running.message_event.set()
        self._stop_timer()
        self.resume_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._chunk_has_body = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # The parser buffers partial headers, and the trailers and chunk extensions of a body.
        self._unparsed = 0 if self._chunk_has_body else self._unparsed + len(data)
        if self._unparsed > MAXIMUM_HEADER_BYTES:
            self._refuse(431, f"the headers have more than {MAXIMUM_HEADER_BYTES} bytes")
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            # uvicorn has no timeout for the rest of a refused body, or for line breaks between requests.
            self._timer = self.loop.call_later(self.limits.body_timeout_s, self._close)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAXIMUM_PIPELINED:
            raise ValueError("too many pipelined requests")
        super().on_message_begin()
        self.scope["extensions"] = self._notes
        self._started = True
        self._start_head_timer()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if not self._in_head:
            return  # a trailer: the headers are already checked
        if len(self.headers) >= MAXIMUM_HEADERS:
            self._refusal = (431, f"more than {MAXIMUM_HEADERS} headers")
            raise ValueError(self._refusal)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head, self._chunk_has_body = False, True
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._chunk_has_body = True
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        status, message = self._refusal
        self._refuse(status, message or msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Do not log: such a request is answered without the upgrade, and must not fill the log."""

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAXIMUM_HEADER_BYTES:
            self._refusal = (431, f"the headers have more than {MAXIMUM_HEADER_BYTES} bytes")
            raise ValueError(self._refusal)

    def _start_head_timer(self) -> None:
        self._stop_timer()
        self._in_head, self._head_bytes = True, 0
        self._timer = self.loop.call_later(self.limits.header_timeout_s, self._on_head_timeout)

    def _start_write_timer(self) -> None:
        left = self.transport.get_write_buffer_size()
        if self._write_timer is None and left:
            self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self._on_write_timeout, left)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _on_head_timeout(self) -> None:
        self._timer = None
        if self._started:
            self._refuse(408, f"the headers took more than {self.limits.header_timeout_s:g} s")
        else:
            self._close()

    def _on_write_timeout(self, left: int) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() < left:  # slow, but reading
            self._start_write_timer()
            return
        self._notes[GONE] = f"the client read nothing for {self.limits.write_timeout_s:g} s"
        self.transport.abort()

    def _close(self) -> None:
        """Close when the client has read everything, or at the write timeout."""
        self.transport.close()
        self._start_write_timer()

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        if self.cycle and not self.cycle.response_complete:  # invalid data after a request in progress
            self.transport.abort()
            return
        body = encode(openai_error(status, message))
        head = (
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {secrets.token_hex(16)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self._close()


def connection_class(limits: Limits) -> type[Any]:
    """Return `Connection` with these limits."""
    return type("Connection", (Connection,), {"limits": limits})
