"""A local HTTP server with scripted replies that records its requests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One response; a `body` other than bytes is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Script:
    """Replies by path, and successive `answers` to `/v1/chat/completions`; anything else is 404.

    `requests` holds path, body and authorization of each request.
    """

    paths: dict[str, Reply] = field(default_factory=dict)
    answers: list[Reply] = field(default_factory=list)
    requests: list[tuple[str, Any, str]] = field(default_factory=list)
    url: str = ""


def events(*items: Any, done: bool = True) -> bytes:
    """Encode dicts or bytes as server-sent events."""
    texts = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    return b"".join(b"data: " + text + b"\n\n" for text in [*texts, *([b"[DONE]"] if done else [])])


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


def stream_reply(*items: Any, done: bool = True, **headers: str) -> Reply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(200, events(*items, done=done), {"content-type": "text/event-stream", **fields})


@contextmanager
def serve(script: Script) -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.requests.append((self.path, None, self.headers.get("authorization", "")))
            self._reply(script.paths.get(self.path, Reply(404)))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            script.requests.append((self.path, body, self.headers.get("authorization", "")))
            chat = self.path.endswith("/chat/completions") and script.answers
            self._reply(script.answers.pop(0) if chat else script.paths.get(self.path, Reply(404)))

        def _reply(self, reply: Reply) -> None:
            raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(raw)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
            """Log nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield script
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
