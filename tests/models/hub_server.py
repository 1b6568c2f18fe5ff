"""The part of the Hugging Face Hub's HTTP API that a download uses, as a real server on loopback.

Weights are redirected to a second server, as the Hub sends clients to its store.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WEIGHTS = (".safetensors", ".gguf")


@dataclass
class Hub:
    """One repository, `org/model`, and the server's behaviour; `requests` has the method, path and headers of each."""

    files: dict[str, bytes]
    commits: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    token: str = ""
    gated: bool = False  # describes the model, but denies its files
    sizes: dict[str, int] = field(default_factory=dict)  # false sizes of files
    linked_size: int = 0  # false size of the weights in the redirect
    about: bytes = b""  # overrides the description of the model
    silent: bool = False  # accepts requests for the model, but never responds
    cut_at: float = 0.0  # fraction of a weight file's body where the connection breaks, once
    cut_always: bool = False
    stall: bool = False  # waits instead of breaking the connection
    corrupt: bool = False
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    store_url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def content_requests(self, name: str, method: str = "GET") -> list[dict[str, str]]:
        """Return the headers of the requests for a file's content."""
        return [headers for verb, path, headers in self.requests if verb == method and path.endswith(f"/{name}")]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run both servers and set their URLs in `hub`."""
    servers = [_Server(hub, handler) for handler in (_Api, _Store)]
    hub.url, hub.store_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub


class _Store(BaseHTTPRequestHandler):
    """Serves the content of weights."""

    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path, dict(self.headers.items())))
        self.answer()

    def answer(self) -> None:
        self.content(self.path.removeprefix("/"))

    def content(self, name: str, headers: dict[str, str] | None = None) -> None:
        content = self.hub.files[name]
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        weights = name.endswith(WEIGHTS)
        if self.hub.corrupt and weights:
            content = bytes(len(content))
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if start > len(content):
            self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        head = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **(headers or {})}
        if wanted:
            head["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(206 if wanted else 200, content[start:], head, may_cut=weights)

    def send(self, status: int, body: bytes, headers: dict[str, str], *, may_cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        share = self._share() if may_cut else 1.0
        try:
            self.wfile.write(body[: int(len(body) * share)])
        except ConnectionError:  # the client was killed or has disconnected
            share = 0.0
        if share < 1:
            if self.hub.stall:
                self.hub.released.wait()
            self.close_connection = True

    def _share(self) -> float:
        share = self.hub.cut_at or 1.0
        if not self.hub.cut_always:
            self.hub.cut_at = 0.0
        return share

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
        """Log nothing: the tests read `requests`."""


class _Api(_Store):
    """Describes the repository, and redirects to the store for weights."""

    def answer(self) -> None:
        about = re.fullmatch(r"/api/models/org/model(?:/revision/([^?]+))?(?:\?.*)?", self.path)
        file = re.fullmatch(r"/org/model/resolve/([^/]+)/(.+)", self.path)
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif about:
            self._about(about[1] or "main", with_sizes="blobs=true" in self.path)
        elif self.hub.gated:
            self.send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"})
        elif file and file[2] in self.hub.files:
            self._file(file[1], file[2])
        elif file:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        else:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def _about(self, revision: str, *, with_sizes: bool) -> None:
        if self.hub.silent:
            self.hub.released.wait()
            self.close_connection = True
            return
        if self.hub.about:
            self.send(200, self.hub.about, {"Content-Type": "text/html"})
            return
        commit = revision if revision in self.hub.commits.values() else self.hub.commits.get(revision)
        if not commit:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in self.hub.files]
        if with_sizes:
            for sibling in siblings:
                name = sibling["rfilename"]
                sibling["size"] = self.hub.sizes.get(name, len(self.hub.files[name]))
        body = {"id": "org/model", "sha": commit, "siblings": siblings}
        self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, commit: str, name: str) -> None:
        if not name.endswith(WEIGHTS):
            self.content(name, {"X-Repo-Commit": commit})
            return
        content = self.hub.files[name]
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(self.hub.linked_size or len(content)),
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Location": f"{self.hub.store_url}/{name}",
            # The Hub also offers its own transfer protocol, which cannot resume.
            "X-Xet-Hash": hashlib.sha256(content).hexdigest(),
            "Link": f'<{self.hub.url}/api/models/org/model/xet-read-token/{commit}>; rel="xet-auth"',
        }
        self.send(302, b"", headers)
