"""A child process and the supervisor's end of the line to it."""

import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import IO, Any

from fledge.core.control import encode
from fledge.core.processes import module_command
from fledge.supervision.policy import Restarts

MODULES = {
    "engine": "fledge.engines.process",
    "endpoint": "fledge.serving.server",
    "recorder": "fledge.monitoring.recorder",
}


@dataclass
class Child:
    """One child: what it is told at its start, and how it is doing. `release` is set for an engine."""

    role: str
    config: dict[str, Any]
    release: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    line: socket.socket | None = None
    heard: float = 0.0
    unread: bytes = b""
    ready: bool = False
    was_ready: bool = False
    error: str = ""
    progress: list[str] = field(default_factory=list)
    restarts: Restarts = field(default_factory=Restarts)
    start_at: float | None = 0.0

    @property
    def name(self) -> str:
        """Role and release."""
        return f"{self.role} {self.release}".strip()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def is_given_up(self) -> bool:
        """It has ended, and is not to be started again."""
        return self.process is None and self.start_at is None

    def described(self) -> dict[str, Any]:
        """What `state.json` says of it, as long as it runs."""
        about = {"role": self.role, "pid": self.process.pid if self.process else 0, "restarts": self.restarts.count}
        return about | ({"release": self.release} if self.release else {})

    def spawn(self, inherited: tuple[int, ...]) -> tuple[socket.socket, IO[bytes]]:
        """Start it; `inherited` are descriptors that it gets. Returns our end of its line, and of what it writes."""
        ours, theirs = socket.socketpair()
        command = [*module_command(MODULES[self.role]), str(theirs.fileno())]
        # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which then stops in order. No session
        # of its own: between sessions Linux shares processors evenly, whatever the priorities (autogroup).
        self.process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), *inherited),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        theirs.close()
        said = self.process.stdout
        assert said  # noqa: S101 (opened as a pipe)
        os.set_blocking(said.fileno(), False)
        self.line, self.ready, self.start_at, self.unread = ours, False, None, b""
        self.error, self.progress = "", []
        self.heard = time.monotonic()
        self.send(**self.config)
        return ours, said

    def send(self, **message: Any) -> None:
        """Tell it something; nothing happens where it is gone."""
        if self.line is not None:
            try:
                self.line.sendall(encode(message))
            except OSError:
                return

    def read(self) -> list[dict[str, Any]] | None:
        """Messages that have arrived; None at the end of the line."""
        try:
            content = self.line.recv(65536) if self.line else b""
        except OSError:
            content = b""
        if not content:
            return None
        self.heard = time.monotonic()
        *lines, self.unread = (self.unread + content).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self, patience_s: float) -> None:
        """Have it stop, and kill it when it does not in time."""
        if self.process is None:
            return
        self.send(event="stop")
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
