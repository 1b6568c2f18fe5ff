"""The line between the supervisor and a child: JSON lines over an inherited socket pair. A ping is answered here.

Nothing lies in the file system, so nobody else can speak on it; its end tells a child that the supervisor is gone.
"""

import json
import socket
import threading
from collections.abc import Callable
from typing import Any


class Control:
    """The child's end. `config` is what came first, not on the command line: that everybody on the machine can read."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self.config: dict[str, Any] = json.loads(self._lines.readline())

    def listen(self, on_event: Callable[[dict[str, Any]], object]) -> None:
        """From now on a thread calls `on_event` for each message; the end of the line is `{"event": "gone"}`."""
        threading.Thread(target=self._listen, args=(on_event,), name="control", daemon=True).start()

    def send(self, **message: Any) -> None:
        """Tell the supervisor something; nothing happens if it is gone."""
        try:
            self._socket.sendall(encode(message))
        except OSError:
            return

    def _listen(self, on_event: Callable[[dict[str, Any]], object]) -> None:
        with self._lines:
            try:
                for line in self._lines:
                    message = json.loads(line)
                    if message["event"] == "ping":
                        self.send(event="pong")
                    else:
                        on_event(message)
            except (OSError, ValueError):
                pass
        on_event({"event": "gone"})


def encode(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message).encode() + b"\n"
