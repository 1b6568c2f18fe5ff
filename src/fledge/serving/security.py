"""Who may ask: the middleware in front of every route. Default-deny."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.core.keys import Keys
from fledge.core.network import LOOPBACK
from fledge.serving.errors import error_response

ALWAYS_OPEN = frozenset({"/health", "/ready", "/ping"})
DOCS_FILES = "/static-offline-docs/"


@dataclass(frozen=True)
class Access:
    """Whom an endpoint lets in: by which Host, from which Origins, and on which paths without a key."""

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    open_paths: frozenset[str] = ALWAYS_OPEN

    def is_open(self, path: str) -> bool:
        """Whether a path needs no key."""
        return path in self.open_paths or (path.startswith(DOCS_FILES) and "/docs" in self.open_paths)


class Guard:
    """Checks Host, Origin and key; the key's name is in the request's state as `key_name`."""

    def __init__(self, app: ASGIApp, access: Access, keys: Keys) -> None:
        self._app = app
        self._access = access
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal:
            headers = {"www-authenticate": "Bearer"} if refusal[0] == 401 else None
            await error_response(scope["path"], *refusal, headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.getlist("host")
        if len(host) != 1 or _host_name(host[0]) not in self._access.hosts:
            return 403, "this Host is not served here"
        origin = headers.get("origin")
        foreign = origin is not None and _netloc(origin) != host[0]
        if foreign and origin not in self._access.origins:
            return 403, "requests from this Origin are not allowed"
        scope.setdefault("state", {})["key_name"] = ""
        preflight = foreign and scope["method"] == "OPTIONS"
        if not self._keys.needed or self._access.is_open(scope["path"]) or preflight:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        name = self._keys.name_of(given.strip() if kind.lower() == "bearer" else "")
        if name is None:
            return 401, "a valid key is needed: Authorization: Bearer KEY"
        scope["state"]["key_name"] = name
        return None


def access(hosts: Iterable[str], origins: Iterable[str], *, open_metrics: bool, open_docs: bool) -> Access:
    """`hosts` beside loopback; without a key `/metrics`, and `/docs` with what it loads, only where they are opened."""
    opened = set(ALWAYS_OPEN)
    if open_metrics:
        opened.add("/metrics")
    if open_docs:
        opened |= {"/docs", "/openapi.json"}
    return Access(frozenset((*LOOPBACK, *hosts)), frozenset(origins), frozenset(opened))


def _host_name(host: str) -> str:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").lower()


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
