"""A child process and the supervisor's end of the line to it."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from fledge.core.control import ChildConfig, decode_events, encode_config, encode_event
from fledge.core.endpoint_state import ProcessState
from fledge.core.events import Event, StopRequested
from fledge.core.processes import module_command
from fledge.supervision.policy import Restarts, is_hung

MODULES = {
    "engine": "fledge.engines.process",
    "endpoint": "fledge.serving.server",
    "recorder": "fledge.monitoring.recorder",
}


@dataclass
class Child:
    """One child: what it is told at its start, and how it is doing. `release` and `address` are set for an engine."""

    role: str
    config: ChildConfig
    release: str = ""
    address: str = ""
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

    def state(self) -> ProcessState:
        """What `state.json` says of it, as long as it runs."""
        return ProcessState(self.role, self.process.pid if self.process else 0, self.restarts.count, self.release)

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
        self._write(encode_config(self.config))
        return ours, said

    def send(self, event: Event) -> None:
        """Tell it something; nothing happens where it is gone."""
        self._write(encode_event(event))

    def read(self, on_refused: Callable[[str], object]) -> list[Event] | None:
        """Events that have arrived; None at the end of the line. `on_refused` is told of a line that is none."""
        try:
            content = self.line.recv(65536) if self.line else b""
        except OSError:
            content = b""
        if not content:
            return None
        self.heard = time.monotonic()
        *lines, self.unread = (self.unread + content).split(b"\n")
        return list(decode_events(lines, on_refused))

    def kill_if_hung(self, now: float, patience_s: float) -> None:
        """Kill it where it should answer and has not done so for `patience_s`; with 0 never."""
        if self.process is not None and self.ready and patience_s and is_hung(self.heard, now, patience_s):
            self.error = f"{self.name} did not answer for {patience_s:g} s and was killed"
            self.process.kill()
            self.heard = now

    def end(self, patience_s: float) -> None:
        """Have it stop, and kill it when it does not in time."""
        if self.process is None:
            return
        self.send(StopRequested())
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _write(self, line: bytes) -> None:
        if self.line is not None:
            with contextlib.suppress(OSError):
                self.line.sendall(line)
