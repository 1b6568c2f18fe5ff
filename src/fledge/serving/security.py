"""Access control: the middleware in front of every route. Denies by default."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.core.keys import Keys
from fledge.core.network import LOOPBACK
from fledge.serving.errors import error_response
from fledge.serving.webhook import PATH, read_secret

ALWAYS_OPEN = frozenset({"/health", "/ready", "/ping"})
DOCS_FILES = "/static-offline-docs/"
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]+))(?::[0-9]{0,5})?")


@dataclass(frozen=True)
class Access:
    """Allowed Hosts and Origins, and paths that need no key."""

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    open_paths: frozenset[str] = ALWAYS_OPEN

    def is_open(self, path: str) -> bool:
        """Return whether a path needs no key."""
        return path in self.open_paths or (path.startswith(DOCS_FILES) and "/docs" in self.open_paths)


class AccessGuard:
    """Checks Host, Origin and key, and sets the key's name in the request's state as `key_name`."""

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
        refusal = self._find_refusal(scope)
        if refusal:
            headers = {"www-authenticate": "Bearer"} if refusal[0] == 401 else None
            await error_response(scope["path"], *refusal, headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _find_refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or _host_name(hosts[0]) not in self._access.hosts:
            return 403, "this Host is not allowed"
        foreign = bool(origins) and not _is_same_origin(origins[0], hosts[0])
        if len(origins) > 1 or (foreign and origins[0] not in self._access.origins):
            return 403, "this Origin is not allowed"
        scope.setdefault("state", {})["key_name"] = ""
        if not self._keys.needed or self._access.is_open(scope["path"]):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        # ASGI servers decode headers as Latin-1.
        name = self._keys.name_of(given.strip().encode("latin-1") if kind.lower() == "bearer" else b"")
        if name is None:
            return 401, "a valid key is needed: Authorization: Bearer KEY"
        scope["state"]["key_name"] = name
        return None


def build_access(hosts: Iterable[str], origins: Iterable[str], *, open_metrics: bool, open_docs: bool) -> Access:
    """Return access rules for loopback and `hosts`. `/metrics` and `/docs` need a key unless opened."""
    opened = set(ALWAYS_OPEN)
    if open_metrics:
        opened.add("/metrics")
    if read_secret():
        opened.add(PATH)  # authenticated by its signature
    if open_docs:
        opened |= {"/docs", "/openapi.json"}
    names = (host.strip("[]").lower() for host in (*LOOPBACK, *hosts))
    normalized = (origin.rstrip("/").lower() for origin in origins)  # as browsers send it
    return Access(frozenset(names), frozenset(normalized), frozenset(opened))


def _host_name(host: str) -> str:
    """Return a Host header's name or address without its port, empty if it is malformed."""
    match = _HOST.fullmatch(host.lower())
    return (match[1] or match[2]) if match else ""


def _is_same_origin(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
