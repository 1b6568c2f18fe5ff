"""The supervisor: `python -m fledge.supervision.supervisor CONFIG_FILE`. Standard library only.

Holds the port, starts engine, endpoint and recorder, restarts what dies, and stops them in order: the endpoint
finishes its requests, the recorder ships what they left, the engine goes last.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fledge.core import state
from fledge.core.control import encode
from fledge.supervision.policy import Restarts, after_crash

MODULES = {
    "engine": "fledge.models.host",
    "endpoint": "fledge.serving.endpoint",
    "recorder": "fledge.monitoring.recorder",
}
CRASH_LOOP_EXIT = 4
RECORDER_FINISH_S = 15.0


@dataclass
class Child:
    """A child process and this end of its control line."""

    role: str
    config: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    line: socket.socket | None = None
    unread: bytes = b""
    ready: bool = False
    restarts: Restarts = field(default_factory=Restarts)
    start_at: float | None = 0.0

    def spawn(self, inherited: tuple[int, ...]) -> socket.socket:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", MODULES[self.role], json.dumps(self.config), str(theirs.fileno())]
        # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which then stops in order.
        self.process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(), *inherited), stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self.line, self.ready, self.start_at, self.unread = ours, False, None, b""
        return ours

    def send(self, **message: Any) -> None:
        if self.line is not None:
            try:
                self.line.sendall(encode(message))
            except OSError:
                return


class Supervisor:
    """Runs one endpoint until SIGTERM or SIGINT, or until a child crashes again and again."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.folder = Path(config["folder"])
        self.started = time.monotonic()
        self.ready_seconds: float | None = None
        self.stopping = False
        self.last_error = ""
        self._written: dict[str, Any] = {}
        self.listener = socket.create_server(
            (config["host"], config["port"]), family=socket.AF_INET6 if ":" in config["host"] else socket.AF_INET
        )
        self.children = {role: Child(role, config[role]) for role in MODULES if config.get(role)}
        # A socket's path has a small limit, so it is not in the state folder.
        self.runtime = tempfile.TemporaryDirectory(prefix="fledge-")
        for role in ("engine", "endpoint"):
            self.children[role].config["address"] = f"ipc://{self.runtime.name}/engine"
        self.children["endpoint"].config["listener"] = self.listener.fileno()
        self.selector = selectors.DefaultSelector()
        self._wake, wake = socket.socketpair()
        for end in (self._wake, wake):
            end.setblocking(False)
        self._wake_other = wake
        signal.set_wakeup_fd(wake.fileno())
        self.selector.register(self._wake, selectors.EVENT_READ, None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def run(self) -> int:
        """The exit code: 0 after a clean stop, 4 after a crash loop."""
        code = 0
        try:
            while not self.stopping:
                self._start_due()
                self._write_state()
                for key, _ in self.selector.select(self._patience()):
                    if key.data is None:
                        self._on_signal(self._wake.recv(64))
                    else:
                        self._on_line(key.data)
                for child in self.children.values():
                    if child.process is not None and child.process.poll() is not None:
                        code = self._on_exit(child) or code
        finally:
            self._stop()
        return code

    def _start_due(self) -> None:
        for child in self.children.values():
            if child.start_at is not None and time.monotonic() >= child.start_at:
                inherited = (self.listener.fileno(),) if child.role == "endpoint" else ()
                self.selector.register(child.spawn(inherited), selectors.EVENT_READ, child)
                if child.role == "endpoint" and self.children["engine"].ready:
                    child.send(event="engine_ready")

    def _patience(self) -> float:
        due = [child.start_at for child in self.children.values() if child.start_at is not None]
        return max(0.0, min([*(moment - time.monotonic() for moment in due), 1.0]))

    def _on_signal(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.stopping = True

    def _on_line(self, child: Child) -> None:
        line = child.line
        if line is None:
            return
        try:
            content = line.recv(65536)
        except OSError:
            content = b""
        if not content:
            self._hang_up(child)
            return
        *messages, child.unread = (child.unread + content).split(b"\n")
        for message in map(json.loads, messages):
            if message["event"] == "ready":
                child.ready = True
                if child.role == "engine":
                    self.children["endpoint"].send(event="engine_ready")
                if self.ready_seconds is None and self._is_ready():
                    self.ready_seconds = time.monotonic() - self.started

    def _is_ready(self) -> bool:
        return all(child.ready for child in self.children.values() if child.role != "recorder")

    def _hang_up(self, child: Child) -> None:
        if child.line is not None:
            self.selector.unregister(child.line)
            child.line.close()
            child.line = None

    def _on_exit(self, child: Child) -> int:
        process = child.process
        if process is None:
            return 0
        self._hang_up(child)
        child.process, child.ready = None, False
        if child.role == "engine":
            self.children["endpoint"].send(event="engine_gone")
        decision = after_crash(child.restarts, time.monotonic())
        child.restarts = decision.record
        self.last_error = f"{child.role} ended with code {process.returncode}"
        sys.stderr.write(f"fledge: {self.last_error}; ")
        if decision.give_up and child.role != "recorder":  # answers matter more than their record
            sys.stderr.write("it keeps crashing, giving up\n")
            self.stopping = True
            return CRASH_LOOP_EXIT
        sys.stderr.write(f"starting it again in {decision.delay_s:g} s\n")
        child.start_at = time.monotonic() + decision.delay_s
        return 0

    def _stop(self) -> None:
        self.stopping = True
        self._write_state()
        limits = {"endpoint": self.config["drain_s"] + 2.0, "recorder": RECORDER_FINISH_S, "engine": 2.0}
        for role, limit in limits.items():
            child = self.children.get(role)
            if child is None or child.process is None:
                continue
            child.send(event="stop")
            try:
                child.process.wait(limit)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.listener.close()
        self.runtime.cleanup()
        (self.folder / "state.json").unlink(missing_ok=True)

    def _write_state(self) -> None:
        condition = "stopping" if self.stopping else "ready" if self._is_ready() else "starting"
        content = {
            "url": self.config["url"],
            "state": condition,
            "pid": os.getpid(),
            "ready_seconds": self.ready_seconds,
            "releases": [self.config["release"]],
            "processes": [{"role": "supervisor", "pid": os.getpid(), "restarts": 0}]
            + [
                {"role": child.role, "pid": child.process.pid, "restarts": child.restarts.count}
                for child in self.children.values()
                if child.process is not None
            ],
            "last_error": self.last_error,
        }
        if content != self._written:
            state.write_json(self.folder / "state.json", content)
            self._written = content


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.exit(Supervisor(config).run())


if __name__ == "__main__":
    main()
