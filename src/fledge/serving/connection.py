"""Connections: uvicorn's HTTP protocol with limits on the size of headers and on the time of each phase."""

import asyncio
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from fledge.core.limits import Limits
from fledge.serving.errors import openai_error
from fledge.serving.response_models import encode

GONE = "fledge.gone"  # in a scope's extensions, once the connection is lost: why
MAXIMUM_HEADER_BYTES = 65_536
MAXIMUM_HEADERS = 200
MAXIMUM_PIPELINED = 32  # requests that a client may send before it has its first answer


class Connection(HttpToolsProtocol):
    """One client's connection. In every state a timer runs: this class's, or the application's own."""

    limits = Limits()  # set by `connection_class`
    _notes: dict[str, Any]
    _timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    _in_head = True
    _has_begun = False
    _chunk_has_body = False
    _unfinished = 0  # bytes that came since the parser last handed anything over
    _head_bytes = 0
    _refusal = (400, "")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._notes = {}
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._notes.setdefault(GONE, "the client hung up")
        self.pipeline.clear()
        if self._running is not None:  # uvicorn tells the latest request only, which may be one that waits
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
        # What the parser holds back: half a header, or the trailers and chunk extensions of a body.
        self._unfinished = 0 if self._chunk_has_body else self._unfinished + len(data)
        if self._unfinished > MAXIMUM_HEADER_BYTES:
            self._refuse(431, f"the headers have more than {MAXIMUM_HEADER_BYTES} bytes")
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            # The rest of a body that was refused, or line breaks between requests: uvicorn waits for ever.
            self._timer = self.loop.call_later(self.limits.body_timeout_s, self._close)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAXIMUM_PIPELINED:
            raise ValueError("too many requests at once")
        super().on_message_begin()
        self.scope["extensions"] = self._notes
        self._has_begun = True
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if not self._in_head:
            return  # a trailer: it came after all checks, and is no header
        if len(self.headers) >= MAXIMUM_HEADERS:
            self._refusal = (431, f"there are more than {MAXIMUM_HEADERS} headers")
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
        self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_timer:
            self._reader_timer.cancel()
            self._reader_timer = None

    def send_400_response(self, msg: str) -> None:
        status, message = self._refusal
        self._refuse(status, message or msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: a request for an upgrade is answered without one, and must not fill the log."""

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAXIMUM_HEADER_BYTES:
            self._refusal = (431, f"the headers have more than {MAXIMUM_HEADER_BYTES} bytes")
            raise ValueError(self._refusal)

    def _expect_head(self) -> None:
        self._stop_timer()
        self._in_head, self._head_bytes = True, 0
        self._timer = self.loop.call_later(self.limits.header_timeout_s, self._head_is_late)

    def _expect_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        if self._reader_timer is None and left:
            self._reader_timer = self.loop.call_later(self.limits.write_timeout_s, self._reader_is_late, left)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        self._timer = None
        if self._has_begun:
            self._refuse(408, f"the headers took more than {self.limits.header_timeout_s:g} s")
        else:
            self._close()

    def _reader_is_late(self, left: int) -> None:
        self._reader_timer = None
        if self.transport.get_write_buffer_size() < left:  # slow, but reading
            self._expect_reader()
            return
        self._notes[GONE] = f"the client read nothing for {self.limits.write_timeout_s:g} s"
        self.transport.abort()

    def _close(self) -> None:
        """Close once the client has read everything, or has not read it in time."""
        self.transport.close()
        self._expect_reader()

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        if self.cycle and not self.cycle.response_complete:  # nonsense behind a request that is being answered
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
