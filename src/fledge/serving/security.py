"""Who may ask: the middleware in front of every route. Default-deny."""

import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge.serving.errors import error_response

OPEN_PATHS = ("/health", "/ready", "/ping")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAXIMUM_BODY_BYTES = 1_000_000


class Guard:
    """Checks Host, Origin, key and body size. `key` None means none is needed (loopback only)."""

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], key: str | None) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._key = key.encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope) if scope["type"] == "http" else (403, "only HTTP is served here")
        if refusal:
            if scope["type"] == "http":
                await error_response(scope["path"], *refusal)(scope, receive, send)
            return
        await self._app(scope, _limited(receive), send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if _host_name(headers.get("host", "")) not in self._hosts:
            return 403, "this Host is not served here"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return 403, "requests from this Origin are not allowed"
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAXIMUM_BODY_BYTES:
            return 413, f"the body is larger than {MAXIMUM_BODY_BYTES} bytes"
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, self._key):
                return 401, "a valid key is needed: Authorization: Bearer KEY"
        return None


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAXIMUM_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAXIMUM_BODY_BYTES} bytes")
        return message

    return limited


def _host_name(host: str) -> str:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]")
