"""The supervisor: `python -m fledge.supervision.supervisor CONFIG_FILE`. Standard library only.

Holds the port, starts engines, endpoint and recorder, restarts what dies, moves requests to another release when an
alias moves, and stops all in order: the endpoint finishes its requests, the recorder ships what they left, then the
engines end.
"""

import contextlib
import itertools
import json
import os
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fledge.core import memory, state
from fledge.core.errors import CrashLoopError, InputError
from fledge.core.network import listen
from fledge.rollout.moves import Moves
from fledge.rollout.routes import releases_of
from fledge.supervision.log import Log
from fledge.supervision.policy import PING_S, Restarts, after_crash, is_hung, suspended_s
from fledge.supervision.process import Child
from fledge.supervision.signals import Signals
from fledge.supervision.state_file import StateFile

FAILED_EXIT = 1
RECORDER_FINISH_S = 15.0
RECORDER_WAIT_S = 10.0
KEPT_PROGRESS = 20


class Supervisor:
    """Runs one endpoint until SIGTERM or SIGINT, or until a child crashes again and again."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.folder = Path(config["folder"])
        self.started = time.monotonic()
        self.ready_seconds: float | None = None
        self.stopping = False
        self.code = 0
        self.last_error = ""
        self.moves = Moves(config["routes"], config["releases"])
        self._facts: dict[str, Any] = {"recorder": None, "refused": [], "canary": None}
        self.state_file = StateFile(self.folder / "state.json")
        log = config["log"]
        self.log = Log(Path(log["file"]) if log["file"] else None, as_json=log["json"])
        self._pinged = self._ticked = time.monotonic()
        self.listener = listen(config["host"], config["port"])
        # A socket's path has a small limit, so it is not in the state folder.
        self.runtime = tempfile.TemporaryDirectory(prefix="fledge-")
        self._numbers = itertools.count()
        self.children: dict[str, Child] = {}
        for release in self.moves.folders:
            self._add_engine(release)
        about = {**config["endpoint"], "routes": self.moves.routes, "releases": self.moves.folders}
        self.children["endpoint"] = Child("endpoint", {**about, "listener": self.listener.fileno()})
        if config["recorder"]:
            # It would only delay the first answer; but then it looks after aliases, too.
            self.children["recorder"] = Child("recorder", config["recorder"], start_at=self.started + RECORDER_WAIT_S)
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "moved": self._on_moved,
            "refused": self._refuse,
            "shares": self._on_shares,
            "recorder": lambda message: self._tell_facts(recorder=message["figures"]),
            "look": lambda message: self._tell_recorder(**message),
            "limits": lambda message: self._on_limits(message["limits"]),
            "retired": lambda message: self._retire(message["release"]),
        }
        self.selector = selectors.DefaultSelector()
        self.signals = Signals()
        self.selector.register(self.signals, selectors.EVENT_READ, None)

    def run(self) -> int:
        """The exit code: 0 after a clean stop, 1 where a release cannot be served, 4 after a crash loop."""
        try:
            while not self.stopping:
                self._start_due()
                self._write_state()
                self._hear(self._patience())
                self._look_after()
                for child in list(self.children.values()):
                    if child.process is not None and child.process.poll() is not None:
                        self._on_exit(child)
        finally:
            self._stop()
        return self.code

    def _hear(self, seconds: float) -> None:
        """Take what comes within so many seconds: signals, lines of children, and what they write."""
        for key, _ in self.selector.select(seconds):
            if self.selector.get_map().get(key.fd) is not key:  # closed meanwhile, as of a retired engine
                continue
            if key.data is None:
                self._on_signal(self.signals.take())
            elif key.fileobj is key.data.line:
                self._on_line(key.data)
            else:
                self._on_words(key.data, key.fileobj)

    def _add_engine(self, release: str) -> None:
        address = f"{self.runtime.name}/engine-{next(self._numbers)}"  # of its own, whatever others still listen on
        about = {"release": self.moves.folders[release], "settings": self.config["engine"], "address": address}
        self.children[f"engine {release}"] = Child("engine", about, release)

    def _engines(self) -> list[Child]:
        return [child for child in self.children.values() if child.role == "engine"]

    def _start_due(self) -> None:
        for child in self.children.values():
            if child.start_at is not None and time.monotonic() >= child.start_at:
                inherited = (self.listener.fileno(),) if child.role == "endpoint" else ()
                if child.role == "endpoint":
                    child.config |= {"routes": self.moves.routes, "releases": self.moves.folders}
                if child.role == "recorder":
                    for item in child.config["watched"]:
                        item["release"] = self.moves.meant(item["name"], item["alias"])
                for end in child.spawn(inherited):
                    self.selector.register(end, selectors.EVENT_READ, child)
                if child.role == "endpoint":
                    child.send(event="facts", **self._facts)
                    for engine in self._engines():
                        self._tell_ready(engine)

    def _tell_ready(self, engine: Child) -> None:
        if engine.ready:
            self.children["endpoint"].send(
                event="engine_ready", release=engine.release, address=engine.config["address"]
            )

    def _patience(self) -> float:
        due = [child.start_at for child in self.children.values() if child.start_at is not None]
        return max(0.0, min([*(moment - time.monotonic() for moment in due), 1.0]))

    def _on_signal(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.stopping = True
        elif signal.SIGHUP in numbers:
            self.children["endpoint"].send(event="reload")

    def _on_line(self, child: Child) -> None:
        messages = child.read()
        if messages is None:
            self._hang_up(child)
            return
        for message in messages:
            event = message["event"]
            if event == "ready":
                self._on_ready(child)
            elif event == "progress":
                child.progress = [*child.progress[1 - KEPT_PROGRESS :], message["text"]]
                self.log.write(child.name, message["text"])
            elif event == "failed":
                child.error = message["error"]
            elif event in self._handlers:
                self._handlers[event](message)

    def _on_ready(self, child: Child) -> None:
        child.ready = child.was_ready = True
        child.progress = []
        if child.role == "engine":
            self._tell_ready(child)
            self._switch()
        if child.role == "recorder":
            for engine in self._engines():
                if engine.is_given_up:
                    self._tell_recorder(event="crashed", release=engine.release, error=engine.error)
        if self.ready_seconds is None and self._is_ready():
            self.ready_seconds = time.monotonic() - self.started
            self._say(f"ready at {self.config['url']} after {self.ready_seconds:.1f} s")
            if "recorder" in self.children and self.children["recorder"].process is None:
                self.children["recorder"].start_at = 0.0

    def _on_words(self, child: Child, said: Any) -> None:
        """What a child has written goes to the log."""
        try:
            content = os.read(said.fileno(), 65536)
        except BlockingIOError:
            return
        self.log.feed(child.name, content)
        if not content:
            self.selector.unregister(said)
            said.close()

    def _look_after(self) -> None:
        """Kill children that should answer and do not."""
        now = time.monotonic()
        pause, self._ticked = suspended_s(self._ticked, now), now
        patience = self.config["heartbeat_s"]
        for child in self.children.values():
            if child.process is None or not child.ready:
                continue
            child.heard += pause
            if patience and is_hung(child.heard, now, patience):
                child.error = f"{child.name} did not answer for {patience:g} s and was killed"
                child.process.kill()
                child.heard = now
        if now - self._pinged >= PING_S:
            self._pinged = now
            for child in self.children.values():
                child.send(event="ping")

    def _on_moved(self, message: dict[str, Any]) -> None:
        """An alias means another release now: start its engine beside the old one; `_switch` does the rest."""
        release = message["release"]
        for forgotten in self.moves.begin(message):
            self._end_engine(forgotten)
        child = self.children.get(f"engine {release}")
        if child is None:
            lacking = memory.lacking([item.process.pid for item in self._engines() if item.process], release)
            self._add_engine(release)
            if lacking:
                child = self.children[f"engine {release}"]
                child.error = lacking
                self._give_up(child, FAILED_EXIT)
                return
        elif child.is_given_up:
            child.restarts, child.start_at = Restarts(), 0.0
        self._switch()

    def _switch(self) -> None:
        """Send requests to the releases whose engines are ready by now."""
        done = self.moves.finish(self._engine_is_ready)
        for item in done:
            self._say(f"{item['name']}@{item['alias']} is {item['release']} now")
        if done:
            self._tell_routes()
            if self.children["endpoint"].process is None:
                self._retire_all()

    def _tell_routes(self) -> None:
        addresses = {engine.release: engine.config["address"] for engine in self._engines() if engine.ready}
        self.children["endpoint"].send(
            event="releases", releases=self.moves.folders, routes=self.moves.routes, addresses=addresses
        )

    def _on_shares(self, message: dict[str, Any]) -> None:
        """A canary goes on, or back."""
        canary = message["canary"]
        if canary != self._facts["canary"] and canary["status"] != "none":
            words = canary["reason"] or f"with {100 * canary['share']:g} % of the requests"
            self._say(f"the canary {canary['release']} is {canary['status']} {words}")
        self._tell_facts(canary=canary)
        if self.moves.share(message):
            self._tell_routes()

    def _on_limits(self, limits: dict[str, Any]) -> None:
        """The endpoint has read its limits again: they are those of its next start, and of our patience at a stop."""
        self.config["endpoint"]["limits"] = self.children["endpoint"].config["limits"] = limits
        with contextlib.suppress(OSError):
            state.write_json(self.folder / "config.json", self.config)

    def _refuse(self, message: dict[str, Any]) -> None:
        """A release that an alias means cannot be served: everybody is told, and the old one goes on."""
        self._say(f"{message['release']} cannot be served, {message['old']} goes on: {message['error']}")
        self.last_error = message["error"]
        self._tell_facts(refused=[*self._facts["refused"], message["release"]])

    def _tell_facts(self, **facts: Any) -> None:
        """What the endpoint says of us on /metrics."""
        self._facts |= facts
        self.children["endpoint"].send(event="facts", **facts)

    def _tell_recorder(self, **message: Any) -> None:
        if "recorder" in self.children:
            self.children["recorder"].send(**message)

    def _engine_is_ready(self, release: str) -> bool:
        child = self.children.get(f"engine {release}")
        return child is not None and child.ready

    def _retire(self, release: str) -> None:
        """The endpoint asks this release nothing more."""
        if release not in self.moves.folders:
            self._end_engine(release)

    def _retire_all(self) -> None:
        """No endpoint asks the releases that nothing leads to any more."""
        for engine in self._engines():
            self._retire(engine.release)

    def _end_engine(self, release: str) -> None:
        child = self.children.pop(f"engine {release}", None)
        if child is not None:
            self._hang_up(child)
            child.end(0.0)

    def _is_ready(self) -> bool:
        """A release that was given up while others are served is not waited for."""
        wanted = [self.children.get(f"engine {release}") for release in releases_of(self.moves.routes)]
        return self.children["endpoint"].ready and all(child and (child.ready or child.is_given_up) for child in wanted)

    def _hang_up(self, child: Child) -> None:
        if child.line is not None:
            self.selector.unregister(child.line)
            child.line.close()
            child.line = None

    def _on_exit(self, child: Child) -> None:
        process = child.process
        if process is None:
            return
        for message in child.read() or []:  # its last words
            child.error = message.get("error", child.error)
        self._hang_up(child)
        child.process, child.ready = None, False
        if process.stdout and not process.stdout.closed:
            self._on_words(child, process.stdout)
        if child.role == "endpoint":
            self._retire_all()
        self.last_error = child.error or f"{child.name} ended with code {process.returncode}"
        if child.error and not child.was_ready:  # it says why it cannot start, and will not be able to a second time
            self._give_up(child, FAILED_EXIT)
            return
        awaited = self._is_candidate(child) and not child.was_ready
        decision = after_crash(child.restarts, time.monotonic(), candidate=awaited)
        child.restarts = decision.record
        if decision.give_up and child.role != "recorder":  # answers matter more than their record
            self.last_error = child.error = f"{self.last_error}; it keeps crashing, giving up"
            self._give_up(child, CrashLoopError.exit_code)
            return
        self._say(f"{self.last_error}; starting it again in {decision.delay_s:g} s")
        child.start_at = time.monotonic() + decision.delay_s

    def _is_candidate(self, child: Child) -> bool:
        return child.role == "engine" and self.moves.is_candidate(child.release, self._facts["canary"])

    def _give_up(self, child: Child, code: int) -> None:
        """A child cannot be started, or crashes again and again: that is the end, but for a release that nobody has a
        right to, without which the others go on."""
        if not self._is_candidate(child):
            self._say(child.error)
            self.stopping, self.code = True, code
            return
        for item in self.moves.give_up(child.release):
            old_folder = self.moves.folders.get(item["old"], "")
            told = {**item, "event": "refused", "error": child.error, "old_folder": old_folder}
            self._refuse(told)
            self._tell_recorder(**told)
        if child.release in releases_of(self.moves.routes):
            self._say(child.error)
            self._tell_recorder(event="crashed", release=child.release, error=child.error)
        else:
            del self.children[f"engine {child.release}"]

    def _say(self, text: str) -> None:
        self.log.write("supervisor", text)

    def _stop(self) -> None:
        self.stopping = True
        self._write_state()
        patience = {"endpoint": self.config["endpoint"]["limits"]["drain_s"] + 4.0, "recorder": RECORDER_FINISH_S}
        for child in [self.children[role] for role in patience if role in self.children]:
            child.send(event="stop")
            deadline = time.monotonic() + patience[child.role]
            while child.is_running and time.monotonic() < deadline:
                self._hear(0.2)  # what all say meanwhile, that nobody waits for a full pipe
            child.end(0.0)
        for engine in self._engines():
            engine.end(2.0)
        self.listener.close()
        self.runtime.cleanup()
        self.state_file.remove()

    def _write_state(self) -> None:
        status = "stopping" if self.stopping else "ready" if self._is_ready() else "starting"
        content = {
            "url": self.config["url"],
            "state": status,
            "pid": os.getpid(),
            "ready_seconds": self.ready_seconds,
            "releases": self.moves.described(self._engine_is_ready),
            "processes": [{"role": "supervisor", "pid": os.getpid(), "restarts": 0}]
            + [child.described() for child in self.children.values() if child.process is not None],
            "progress": [text for child in self.children.values() for text in child.progress],
            "last_error": self.last_error,
            "recorder": self._facts["recorder"],
            "canary": self._facts["canary"],
        }
        self.state_file.write(content)


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        sys.exit(Supervisor(config).run())
    except InputError as error:  # before it runs
        sys.stderr.write(f"error: {error.message}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
