"""A real OpenAI-compatible judge server that can return invalid judgements."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BROKEN: dict[str, Callable[[str], tuple[int, str]]] = {
    "prose": lambda _: (200, "I think that this is quite a good answer."),
    "cut": lambda good: (200, good[:-3]),
    "range": lambda _: (200, '{"result": 9, "rationale": "so good"}'),
    "type": lambda _: (200, '{"result": "high", "rationale": "good"}'),
    "empty": lambda _: (200, ""),
    "list": lambda _: (200, "[4]"),
}


@dataclass
class JudgeServer:
    """`judge` returns the judgement for a request's text; a random share `broken` of the answers is invalid."""

    judge: Callable[[str], dict[str, Any]]
    broken: float = 0.0
    kinds: tuple[str, ...] = tuple(BROKEN)
    seed: int = 0
    status: int = 0
    hang_s: float = 0.0
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    broke: Counter[str] = field(default_factory=Counter)


@contextmanager
def serve(server: JudgeServer) -> Iterator[JudgeServer]:
    random_numbers, lock = random.Random(server.seed), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.bodies.append(body)
                kind = random_numbers.choice(server.kinds) if random_numbers.random() < server.broken else ""
                server.broke[kind] += 1
            time.sleep(server.hang_s)
            good = json.dumps(server.judge("\n".join(turn["content"] for turn in body["messages"])))
            status, text = BROKEN[kind](good) if kind else (200, good)
            content: dict[str, Any] = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
            if server.status:
                status, content = server.status, {"error": {"message": "no", "type": "x", "param": None, "code": None}}
            raw = json.dumps(content).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except ConnectionError:  # the client disconnected
                pass

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
            """Log nothing; the tests read the received requests."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1#judge"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
