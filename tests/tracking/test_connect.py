"""Connecting to tracking servers that fail."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fledge.core.errors import FledgeError
from fledge.tracking import _mlflow_connection
from fledge.tracking._mlflow_connection import connect


class _Server(ThreadingHTTPServer):
    """Answers everything with one status; 0 never answers."""

    status = 500
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.server.status:
            time.sleep(60)
            return
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "reason", "hint"),
    [
        (500, "it returns error 500", "see the server log"),
        (404, "it returns error 404", "check MLFLOW_TRACKING_URI"),
        (401, "it requires a user name and password", "export MLFLOW_TRACKING_USERNAME"),
        (0, "no answer in 1 s", "check MLFLOW_TRACKING_URI"),
    ],
)
def test_failing_server_is_reported_with_a_hint(
    server: _Server, monkeypatch: pytest.MonkeyPatch, status: int, reason: str, hint: str
) -> None:
    if not status:
        monkeypatch.setattr(_mlflow_connection, "FIRST_ANSWER_S", 1)
    server.status = status
    with pytest.raises(FledgeError, match=reason) as caught:
        connect(f"http://me:secret@127.0.0.1:{server.server_port}")
    assert hint in caught.value.hint
    assert "secret" not in caught.value.message


def test_unreachable_server_is_reported(port: int) -> None:
    with pytest.raises(FledgeError, match="nothing listens there"):
        connect(f"http://127.0.0.1:{port}")
