"""A child process and the supervisor's socket to it."""

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
    """A child: its configuration and its state. `release` and `address` are set for an engine."""

    role: str
    config: ChildConfig
    release: str = ""
    address: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    line: socket.socket | None = None
    last_heard: float = 0.0
    unread: bytes = b""
    ready: bool = False
    was_ready: bool = False
    error: str = ""
    progress: list[str] = field(default_factory=list)
    restarts: Restarts = field(default_factory=Restarts)
    start_at: float | None = 0.0

    @property
    def name(self) -> str:
        """Return role and release."""
        return f"{self.role} {self.release}".strip()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def is_given_up(self) -> bool:
        """Return whether it has ended and will not be restarted."""
        return self.process is None and self.start_at is None

    def state(self) -> ProcessState:
        """Return its entry in `state.json` while it runs."""
        return ProcessState(self.role, self.process.pid if self.process else 0, self.restarts.count, self.release)

    def spawn(self, inherited: tuple[int, ...]) -> tuple[socket.socket, IO[bytes]]:
        """Start it with the `inherited` descriptors; return our ends of its socket and its output pipe."""
        ours, theirs = socket.socketpair()
        command = [*module_command(MODULES[self.role]), str(theirs.fileno())]
        # A new process group, so that Ctrl-C reaches only the supervisor, which stops all in order. Not a new session:
        # Linux shares processors evenly between sessions, regardless of priorities (autogroup).
        self.process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), *inherited),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        theirs.close()
        output = self.process.stdout
        assert output  # noqa: S101 (opened as a pipe)
        os.set_blocking(output.fileno(), False)
        self.line, self.ready, self.start_at, self.unread = ours, False, None, b""
        self.error, self.progress = "", []
        self.last_heard = time.monotonic()
        self._write(encode_config(self.config))
        return ours, output

    def send(self, event: Event) -> None:
        """Send an event; ignored if the process is gone."""
        self._write(encode_event(event))

    def read(self, on_refused: Callable[[str], object]) -> list[Event] | None:
        """Return the received events, None if the socket is closed. `on_refused` gets the error of an invalid line."""
        try:
            content = self.line.recv(65536) if self.line else b""
        except OSError:
            content = b""
        if not content:
            return None
        self.last_heard = time.monotonic()
        *lines, self.unread = (self.unread + content).split(b"\n")
        return list(decode_events(lines, on_refused))

    def kill_if_hung(self, now: float, timeout_s: float) -> None:
        """Kill it if it is ready and has not responded for `timeout_s`; 0 means never."""
        if self.process is not None and self.ready and timeout_s and is_hung(self.last_heard, now, timeout_s):
            self.error = f"{self.name} did not answer for {timeout_s:g} s and was killed"
            self.process.kill()
            self.last_heard = now

    def end(self, timeout_s: float) -> None:
        """Request a stop, and kill it after `timeout_s`."""
        if self.process is None:
            return
        self.send(StopRequested())
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _write(self, line: bytes) -> None:
        if self.line is not None:
            with contextlib.suppress(OSError):
                self.line.sendall(line)
