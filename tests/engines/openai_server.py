"""A small server with OpenAI's API on loopback, which can misbehave."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """Answer with `words`, one per chunk. `failures` are the statuses of the first requests."""

    words: tuple[str, ...] = ("One ", "two ", "three.")
    failures: list[int] = field(default_factory=list)
    finish_reason: str = "stop"
    break_off: bool = False
    usage: bool = True
    pause_s: float = 0.0
    models: tuple[str, ...] = ("first", "second")
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    max_running: int = 0
    url: str = ""


@contextmanager
def serve(server: Server) -> Iterator[Server]:
    http = _Http(server)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = server
        self.lock = threading.Lock()
        self.running = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Http

    def do_GET(self) -> None:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in self.server.behaviour.models
        ]
        self._json(200, {"object": "list", "data": data})

    def do_POST(self) -> None:
        behaviour = self.server.behaviour
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour.bodies.append(body)
        behaviour.keys.append(self.headers.get("Authorization", ""))
        with self.server.lock:
            failure = behaviour.failures.pop(0) if behaviour.failures else 0
            self.server.running += 1
            behaviour.max_running = max(behaviour.max_running, self.server.running)
        try:
            if failure:
                error = {"message": f"scripted {failure}", "type": "x", "param": None, "code": None}
                self._json(failure, {"error": error})
            else:
                self._stream(behaviour, body)
        except ConnectionError:  # the client disconnected
            pass
        finally:
            with self.server.lock:
                self.server.running -= 1

    def _stream(self, behaviour: Server, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for place, word in enumerate(behaviour.words):
            time.sleep(behaviour.pause_s)
            if behaviour.break_off and place == 1:
                return
            logprobs = {"content": [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
            self._event({"content": word}, None, logprobs if body.get("logprobs") else None)
        self._event({}, behaviour.finish_reason, None)
        if behaviour.usage:
            usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
            self._data({**self._head(), "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, delta: dict[str, str], reason: str | None, logprobs: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        self._data({**self._head(), "choices": [choice]})

    def _head(self) -> dict[str, Any]:
        return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "first"}

    def _data(self, content: Any) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, content: Any) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
        """Log nothing: the tests read `bodies`."""
