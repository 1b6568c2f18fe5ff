"""The middleware around the application: request ids, limits on bodies, disconnects, and one outcome a request."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge.core.limits import Limits
from fledge.engines.engine import EngineGoneError
from fledge.serving.admission import BusyError
from fledge.serving.connection import GONE
from fledge.serving.errors import error_response, http_error
from fledge.serving.trace import RequestTrace

CLIENT_CLOSED_REQUEST = 499
PART_BYTES = 1 << 17
UNRECORDED = frozenset({401, 403})  # from unknown clients, who must not be able to fill the disk
ROUTES = {"/invocations": "invocations", "/v1/chat/completions": "chat", "/v1/completions": "completions"}


class Lifecycle:
    """The outermost middleware: assigns request ids, and calls `on_end` exactly once with the outcome of a request."""

    def __init__(self, app: ASGIApp, on_end: Callable[[RequestTrace, int], None]) -> None:
        self._app = app
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = RequestTrace(ROUTES.get(scope["path"], ""))
        scope.setdefault("state", {})["trace"] = trace
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = trace.request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server's shutdown timed out
            if status:
                trace.status = trace.status or CLIENT_CLOSED_REQUEST
                raise
            stopping = EngineGoneError("the endpoint is stopping")
            trace.error = stopping.message
            await error_response(scope["path"], *http_error(stopping, trace.request_id))(scope, receive, send_with_id)
        finally:
            if trace.route and scope["method"] == "POST" and status not in UNRECORDED:
                self._on_end(trace, status or CLIENT_CLOSED_REQUEST)


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, *, close: bool = True) -> None:
        self.status, self.message, self.close = status, message, close


class Transfer:
    """Reads the body before the application runs, and ends the application when the client hangs up.

    If `busy` returns an error, a request is refused before its body is read: under overload, refusals must be cheap.
    """

    def __init__(self, app: ASGIApp, limits: Callable[[], Limits], busy: Callable[[], BusyError | None]) -> None:
        self._app = app
        self._limits = limits
        self._busy = busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace: RequestTrace = scope["state"]["trace"]
        busy = self._busy() if trace.route and scope["method"] == "POST" else None
        if busy:
            trace.error = busy.message
            await error_response(scope["path"], *http_error(busy, trace.request_id))(scope, receive, send)
            return
        try:
            body = await self._read_body(Headers(scope=scope), receive)
        except _RefusedError as refused:
            trace.error = refused.message
            headers = {"connection": "close"} if refused.close else None
            await error_response(scope["path"], refused.status, refused.message, headers)(scope, receive, send)
            return
        if body is None:
            trace.status, trace.error = CLIENT_CLOSED_REQUEST, "the client hung up"
            return
        await self._run(scope, body, receive, send, trace)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send, trace: RequestTrace) -> None:
        replayed = lost = False
        extensions = scope.get("extensions", {})

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                await asyncio.Event().wait()  # a hang-up ends the task instead
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_parts(message: Message) -> None:
            nonlocal lost
            for part in _split_body(message):
                await send(part)  # does nothing after a disconnect
            lost = GONE in extensions

        app = asyncio.ensure_future(self._app(scope, replay, send_parts))
        disconnect = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({app, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if lost or not app.done():
                reason = extensions.get(GONE, "the client hung up")
                trace.status, trace.error = trace.status or CLIENT_CLOSED_REQUEST, trace.error or reason
        finally:
            disconnect.cancel()
            if not app.done():
                app.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await app
        finally:
            if trace.pieces is not None:  # a generator that was never started is closed nowhere else
                await trace.pieces.aclose()

    async def _read_body(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the whole body, or None if the client disconnected."""
        limits = self._limits()
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _RefusedError(400, "compressed bodies are not supported")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limits.max_body_bytes:
            # A client that sends slightly too much can finish and then read the response.
            raise _too_large(limits, close=int(length) > 10 * limits.max_body_bytes)
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limits.max_body_bytes:
                        raise _too_large(limits, close=True)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise _RefusedError(408, f"the body took more than {limits.body_timeout_s:g} s") from None


def _split_body(message: Message) -> Iterator[Message]:
    """Split a long body: a single write is held in memory, and TLS hides whether the client reads it."""
    body = message.get("body", b"")
    if len(body) <= PART_BYTES:
        yield message
        return
    for start in range(0, len(body), PART_BYTES):
        more = start + PART_BYTES < len(body) or message.get("more_body", False)
        yield {**message, "body": body[start : start + PART_BYTES], "more_body": more}


def _too_large(limits: Limits, *, close: bool) -> _RefusedError:
    return _RefusedError(413, f"the body is larger than {limits.max_body_bytes} bytes", close=close)
