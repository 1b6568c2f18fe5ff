"""The supervisor: `python -m fledge.supervision.supervisor CONFIG_FILE`. Standard library only.

Holds the port, starts and restarts engines, endpoint and recorder, and moves requests to another release when an
alias moves. On a stop the endpoint finishes its requests, the recorder ships their records, then the engines end.
"""

import contextlib
import itertools
import os
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fledge.core import events, memory, state
from fledge.core.decoding import read_json
from fledge.core.endpoint_config import EndpointConfig, EngineConfig, RecorderConfig, SupervisorConfig
from fledge.core.endpoint_state import EndpointFacts, EndpointState, ProcessState
from fledge.core.errors import CrashLoopError, InputError
from fledge.core.network import listen
from fledge.rollout.moves import Moves
from fledge.rollout.routes import releases_of
from fledge.supervision.log import Log
from fledge.supervision.policy import PING_S, Restarts, after_crash, suspended_s
from fledge.supervision.process import Child
from fledge.supervision.signals import Signals
from fledge.supervision.state_file import StateFile

FAILED_EXIT = 1
RECORDER_FINISH_S = 15.0
RECORDER_WAIT_S = 10.0
KEPT_PROGRESS = 20


class Supervisor:
    """Runs one endpoint until SIGTERM, SIGINT or a crash loop."""

    def __init__(self, config: SupervisorConfig) -> None:
        self.config = config
        self.folder = Path(config.folder)
        self.started = time.monotonic()
        self.ready_seconds: float | None = None
        self.stopping = False
        self.code = 0
        self.last_error = ""
        self.moves = Moves(config.routes, config.releases)
        self._facts = EndpointFacts()
        self.state_file = StateFile(self.folder / "state.json")
        self.log = Log(Path(config.log.file) if config.log.file else None, as_json=config.log.json)
        self._pinged = self._ticked = time.monotonic()
        self.listener = listen(config.host, config.port)
        # Not in the state folder: the path of a socket has a low length limit.
        self.runtime = tempfile.TemporaryDirectory(prefix="fledge-")
        self._numbers = itertools.count()
        self.children: dict[str, Child] = {}
        for release in self.moves.folders:
            self._add_engine(release)
        self.children["endpoint"] = Child("endpoint", self._endpoint_config())
        if config.recorder:
            # A recorder at the start would delay the first answer. It must start in the end, as it watches aliases.
            self.children["recorder"] = Child("recorder", config.recorder, start_at=self.started + RECORDER_WAIT_S)
        self.selector = selectors.DefaultSelector()
        self.signals = Signals()
        self.selector.register(self.signals, selectors.EVENT_READ, None)

    def run(self) -> int:
        """Return the exit code: 0 after a clean stop, 1 if a release cannot be served, 4 after a crash loop."""
        try:
            while not self.stopping:
                self._start_due()
                self._write_state()
                self._handle_input(self._select_timeout())
                self._check_heartbeats()
                for child in list(self.children.values()):
                    if child.process is not None and child.process.poll() is not None:
                        self._on_exit(child)
        finally:
            self._stop()
        return self.code

    def _handle_input(self, seconds: float) -> None:
        """Handle signals, events and output of children that arrive within `seconds`."""
        for key, _ in self.selector.select(seconds):
            if self.selector.get_map().get(key.fd) is not key:  # closed meanwhile, such as of a retired engine
                continue
            if key.data is None:
                self._on_signal(self.signals.take())
            elif key.fileobj is key.data.line:
                self._on_line(key.data)
            else:
                self._on_output(key.data, key.fileobj)

    def _add_engine(self, release: str) -> None:
        address = f"{self.runtime.name}/engine-{next(self._numbers)}"  # unique, as an older engine may still listen
        config = EngineConfig(self.config.engine, self.moves.folders[release], address)
        self.children[f"engine {release}"] = Child("engine", config, release, address)

    def _engines(self) -> list[Child]:
        return [child for child in self.children.values() if child.role == "engine"]

    def _start_due(self) -> None:
        for child in self.children.values():
            if child.start_at is not None and time.monotonic() >= child.start_at:
                inherited = (self.listener.fileno(),) if child.role == "endpoint" else ()
                if child.role == "endpoint":
                    child.config = self._endpoint_config()
                elif isinstance(child.config, RecorderConfig):
                    child.config = replace(child.config, watched=self.moves.update_watched(child.config.watched))
                for end in child.spawn(inherited):
                    self.selector.register(end, selectors.EVENT_READ, child)
                if child.role == "endpoint":
                    child.send(events.FactsChanged(self._facts))
                    for engine in self._engines():
                        self._send_ready(engine)

    def _send_ready(self, engine: Child) -> None:
        if engine.ready:
            self.children["endpoint"].send(events.EngineReady(engine.release, engine.address))

    def _endpoint_config(self) -> EndpointConfig:
        return EndpointConfig(self.config.endpoint, self.moves.routes, self.moves.folders, self.listener.fileno())

    def _select_timeout(self) -> float:
        due = [child.start_at for child in self.children.values() if child.start_at is not None]
        return max(0.0, min([*(moment - time.monotonic() for moment in due), 1.0]))

    def _on_signal(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.stopping = True
        elif signal.SIGHUP in numbers:
            self.children["endpoint"].send(events.ReloadRequested())

    def _on_line(self, child: Child) -> None:
        arrived = self._read(child)
        if arrived is None:
            self._close_line(child)
        for event in arrived or ():
            match event:
                case events.ChildReady():
                    self._on_ready(child)
                case events.StartProgress(text):
                    child.progress = [*child.progress[1 - KEPT_PROGRESS :], text]
                    self.log.write(child.name, text)
                case events.StartFailed(error):
                    child.error = error
                case _:
                    self._on_event(event)

    def _read(self, child: Child) -> list[events.Event] | None:
        return child.read(lambda reason: self.log.write(child.name, f"message refused: {reason}"))

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.AliasMoved():
                self._on_moved(event)
            case events.ReleaseRefused():
                self._refuse(event)
            case events.SharesChanged():
                self._on_shares(event)
            case events.RecordsShipped(figures):
                self._send_facts(replace(self._facts, recorder=figures))
            case events.LookRequested():
                self._send_to_recorder(event)
            case events.LimitsChanged(limits):
                self._on_limits(limits)
            case events.ReleaseRetired(release):
                self._retire(release)

    def _on_ready(self, child: Child) -> None:
        child.ready = child.was_ready = True
        child.progress = []
        if child.role == "engine":
            self._send_ready(child)
            self._switch()
        if child.role == "recorder":
            for engine in self._engines():
                if engine.is_given_up:
                    self._send_to_recorder(events.EngineCrashed(engine.release, engine.error))
        if self.ready_seconds is None and self._is_ready():
            self.ready_seconds = time.monotonic() - self.started
            self._say(f"ready at {self.config.url} after {self.ready_seconds:.1f} s")
            if "recorder" in self.children and self.children["recorder"].process is None:
                self.children["recorder"].start_at = 0.0

    def _on_output(self, child: Child, output: Any) -> None:
        """Write a child's output to the log."""
        try:
            content = os.read(output.fileno(), 65536)
        except BlockingIOError:
            return
        self.log.feed(child.name, content)
        if not content:
            self.selector.unregister(output)
            output.close()

    def _check_heartbeats(self) -> None:
        """Kill unresponsive children and ping all."""
        now = time.monotonic()
        pause, self._ticked = suspended_s(self._ticked, now), now
        for child in self.children.values():
            child.last_heard += pause
            child.kill_if_hung(now, self.config.heartbeat_s)
        if now - self._pinged >= PING_S:
            self._pinged = now
            for child in self.children.values():
                child.send(events.Ping())

    def _on_moved(self, event: events.AliasMoved) -> None:
        """Start the engine of an alias's new release; `_switch` routes requests to it when it is ready."""
        release = event.release
        for forgotten in self.moves.begin(event):
            self._end_engine(forgotten)
        child = self.children.get(f"engine {release}")
        if child is None:
            shortage = memory.describe_shortage([item.process.pid for item in self._engines() if item.process], release)
            self._add_engine(release)
            if shortage:
                child = self.children[f"engine {release}"]
                child.error = shortage
                self._give_up(child, FAILED_EXIT)
                return
        elif child.is_given_up:
            child.restarts, child.start_at = Restarts(), 0.0
        self._switch()

    def _switch(self) -> None:
        """Route requests to the new releases whose engines are ready."""
        done = self.moves.finish(self._engine_is_ready)
        for item in done:
            self._say(f"{item.name}@{item.alias} now serves {item.release}")
        if done:
            self._send_routes()
            if self.children["endpoint"].process is None:
                self._retire_all()

    def _send_routes(self) -> None:
        addresses = {engine.release: engine.address for engine in self._engines() if engine.ready}
        self.children["endpoint"].send(events.ReleasesChanged(self.moves.folders, self.moves.routes, addresses))

    def _on_shares(self, event: events.SharesChanged) -> None:
        """Apply the shares of a canary and log its progress."""
        canary = event.canary
        if canary != self._facts.canary and canary.status != "none":
            words = canary.reason or f"with {100 * canary.share:g} % of the requests"
            self._say(f"the canary {canary.release} is {canary.status} {words}")
        self._send_facts(replace(self._facts, canary=canary))
        if self.moves.share(event):
            self._send_routes()

    def _on_limits(self, limits: Mapping[str, int | float]) -> None:
        """Store the reloaded limits for the endpoint's next start and for the stop timeout."""
        self.config = replace(self.config, endpoint=replace(self.config.endpoint, limits=limits))
        with contextlib.suppress(OSError):
            state.write_json(self.folder / "config.json", asdict(self.config))

    def _refuse(self, event: events.ReleaseRefused) -> None:
        """Report a release that cannot be served; the old one stays in service."""
        self._say(f"{event.release} cannot be served, {event.old} stays in service: {event.error}")
        self.last_error = event.error
        self._send_facts(replace(self._facts, refused=(*self._facts.refused, event.release)))

    def _send_facts(self, facts: EndpointFacts) -> None:
        """Send the facts that the endpoint publishes on /metrics."""
        self._facts = facts
        self.children["endpoint"].send(events.FactsChanged(facts))

    def _send_to_recorder(self, event: events.Event) -> None:
        if "recorder" in self.children:
            self.children["recorder"].send(event)

    def _engine_is_ready(self, release: str) -> bool:
        child = self.children.get(f"engine {release}")
        return child is not None and child.ready

    def _retire(self, release: str) -> None:
        """End the engine of a release that the endpoint no longer uses."""
        if release not in self.moves.folders:
            self._end_engine(release)

    def _retire_all(self) -> None:
        """End the engines of all releases without a route."""
        for engine in self._engines():
            self._retire(engine.release)

    def _end_engine(self, release: str) -> None:
        child = self.children.pop(f"engine {release}", None)
        if child is not None:
            self._close_line(child)
            child.end(0.0)

    def _is_ready(self) -> bool:
        """Return whether the endpoint and all engines that were not given up are ready."""
        wanted = [self.children.get(f"engine {release}") for release in releases_of(self.moves.routes)]
        return self.children["endpoint"].ready and all(child and (child.ready or child.is_given_up) for child in wanted)

    def _close_line(self, child: Child) -> None:
        if child.line is not None:
            self.selector.unregister(child.line)
            child.line.close()
            child.line = None

    def _on_exit(self, child: Child) -> None:
        process = child.process
        if process is None:
            return
        for event in self._read(child) or []:  # sent just before the exit
            if isinstance(event, events.StartFailed):
                child.error = event.error
        self._close_line(child)
        child.process, child.ready = None, False
        if process.stdout and not process.stdout.closed:
            self._on_output(child, process.stdout)
        if child.role == "endpoint":
            self._retire_all()
        self.last_error = child.error or f"{child.name} ended with code {process.returncode}"
        if child.error and not child.was_ready:  # a reported start failure would recur
            self._give_up(child, FAILED_EXIT)
            return
        awaited = self._is_candidate(child) and not child.was_ready
        decision = after_crash(child.restarts, time.monotonic(), candidate=awaited)
        child.restarts = decision.record
        if decision.give_up and child.role != "recorder":  # answers matter more than records
            self.last_error = child.error = f"{self.last_error}; giving up after repeated crashes"
            self._give_up(child, CrashLoopError.exit_code)
            return
        self._say(f"{self.last_error}; restarting it in {decision.delay_s:g} s")
        child.start_at = time.monotonic() + decision.delay_s

    def _is_candidate(self, child: Child) -> bool:
        return child.role == "engine" and self.moves.is_candidate(child.release, self._facts.canary)

    def _give_up(self, child: Child, code: int) -> None:
        """Stop the endpoint as a child cannot run; give up only the release if it is a candidate."""
        if not self._is_candidate(child):
            self._say(child.error)
            self.stopping, self.code = True, code
            return
        for event in self.moves.give_up(child.release, child.error):
            self._refuse(event)
            self._send_to_recorder(event)
        if child.release in releases_of(self.moves.routes):
            self._say(child.error)
            self._send_to_recorder(events.EngineCrashed(child.release, child.error))
        else:
            del self.children[f"engine {child.release}"]

    def _say(self, text: str) -> None:
        self.log.write("supervisor", text)

    def _stop(self) -> None:
        self.stopping = True
        self._write_state()
        timeouts = {"endpoint": self.config.endpoint.limits["drain_s"] + 4.0, "recorder": RECORDER_FINISH_S}
        for child in [self.children[role] for role in timeouts if role in self.children]:
            child.send(events.StopRequested())
            deadline = time.monotonic() + timeouts[child.role]
            while child.is_running and time.monotonic() < deadline:
                self._handle_input(0.2)  # a child must not block on a full pipe
            child.end(0.0)
        for engine in self._engines():
            engine.end(2.0)
        self.listener.close()
        self.runtime.cleanup()
        self.state_file.remove()

    def _write_state(self) -> None:
        running = [child.state() for child in self.children.values() if child.process is not None]
        content = EndpointState(
            url=self.config.url,
            state="stopping" if self.stopping else "ready" if self._is_ready() else "starting",
            pid=os.getpid(),
            ready_seconds=self.ready_seconds,
            releases=self.moves.release_states(self._engine_is_ready),
            processes=(ProcessState("supervisor", os.getpid(), 0), *running),
            progress=tuple(text for child in self.children.values() for text in child.progress),
            last_error=self.last_error,
            recorder=self._facts.recorder,
            canary=self._facts.canary,
        )
        self.state_file.write(content)


def main() -> None:
    try:
        sys.exit(Supervisor(read_json(SupervisorConfig, Path(sys.argv[1]))).run())
    except InputError as error:  # from the constructor
        sys.stderr.write(f"error: {error.message}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
