"""Run a canary: read requests from the outbox, send shares to the supervisor, and record the outcome in MLflow."""

import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from fledge.core import state
from fledge.core.control import Control
from fledge.core.decoding import DecodeError, read_json
from fledge.core.endpoint_config import CanaryConfig, RecorderConfig
from fledge.core.endpoint_state import CanaryProgress
from fledge.core.events import SharesChanged
from fledge.core.messages import OutboxRecord
from fledge.core.settings import Workspace
from fledge.registry._mlflow_canary_runs import record_canary
from fledge.registry.release import note, promote
from fledge.rollout._mlflow_aliases import AliasWatch
from fledge.rollout.canary import LATEST, CanaryState, CanaryStatus, GuardReading, Tally, decide, read_guards, read_plan
from fledge.serving.outbox_reader import Position, read_batch

BATCH = 1000
HUNG_UP = 499


@dataclass
class _Requests:
    """The latest requests of one release."""

    statuses: deque[int] = field(default_factory=lambda: deque(maxlen=LATEST))
    ttft: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))

    def add(self, record: OutboxRecord) -> None:
        """Count a request; the waiting time of a client that hung up is a lower bound of its latency."""
        if 400 <= record.status < HUNG_UP:  # errors of clients, or overload by them
            return
        self.statuses.append(record.status)
        if record.status in (200, HUNG_UP):
            self.latency.append((record.ended_ns - record.started_ns) / 1e9)
            if record.first_token_ns or record.status == HUNG_UP:
                self.ttft.append(((record.first_token_ns or record.ended_ns) - record.started_ns) / 1e9)

    def tally(self) -> Tally:
        errors = sum(status >= 500 for status in self.statuses)
        return Tally(len(self.statuses), errors, tuple(self.ttft), tuple(self.latency))


@dataclass(frozen=True)
class _SavedCanary:
    """The content of the canary's file. `owed`: the outcome is not in MLflow yet; `since`: its start in seconds since
    the epoch; `plan`: its steps, hold and guards as given."""

    baseline: str
    candidate: str
    plan: tuple[tuple[str, ...], str, tuple[str, ...]]
    since: float
    state: CanaryState
    owed: bool
    figures: tuple[GuardReading, ...]


class CanaryWatch:
    """Runs the canary that `about` describes. Its decisions survive a restart, and a judged release is not tried again
    until the candidate alias moves to another."""

    def __init__(
        self, config: RecorderConfig, about: CanaryConfig, aliases: AliasWatch, control: Control[RecorderConfig]
    ) -> None:
        self._settings = (about.steps, about.hold, about.guards)
        self._plan = read_plan(*self._settings)
        self._name, self._baseline, self._candidate = about.name, about.baseline, about.candidate
        self._file, self._outbox = Path(about.file), Path(config.outbox)
        self._workspace = Workspace(config.tracking_uri, about.state)
        self._aliases, self._control = aliases, control
        self._lock = threading.Lock()
        self._pair = ("", "")
        self._state = CanaryState()
        self._since = 0.0
        self._figures: tuple[GuardReading, ...] = ()
        self._evidence = ""
        self._sent: SharesChanged | None = None
        self.owed = False  # the outcome is not in MLflow yet
        self.period_s = min(5.0, max(0.5, self._plan.hold_s / 20))

    def step(self) -> None:
        """Evaluate the canary once and send its shares. Reads only the outbox."""
        with self._lock:
            pair = (
                self._aliases.release(self._name, self._baseline),
                self._aliases.release(self._name, self._candidate),
            )
            if pair[0] == pair[1]:  # there is no candidate
                if pair != self._pair:
                    self._cancel(pair)
                self._send_shares(0.0, "none")
                return
            if pair != self._pair:
                self._start(pair)
            if self._state.status == "running":
                self._read_outbox()
                candidate, baseline = self._candidate_requests.tally(), self._baseline_requests.tally()
                self._apply(decide(self._plan, self._state, candidate, baseline, time.time()), candidate, baseline)
            active = self._state.status == "running" or (self._state.status == "passed" and self.owed)
            self._send_shares(self._plan.steps[self._state.step] if active else 0.0, self._state.status)

    def note_crash(self, release: str, error: str) -> None:
        """Roll back if `release`, whose engine was given up, is the candidate."""
        with self._lock:
            if release == self._pair[1] and self._state.status == "running":
                reason = f"at {100 * self._plan.steps[self._state.step]:g} % of the requests: {error}"
                self._apply(replace(self._state, status="rolled back", reason=reason), Tally(), Tally())

    def conclude(self) -> None:
        """Record the outcome in MLflow and promote a passed release. Raises MLflow's errors; call it again then."""
        with self._lock:
            pair, passed, reason = self._pair, self._state.status == "passed", self._state.reason
        before, after = (int(release.rpartition("/")[2]) for release in pair)
        uri = self._workspace.tracking
        self._evidence = self._evidence or record_canary(
            uri, self._name, after, passed, reason, [asdict(reading) for reading in self._figures]
        )
        if passed:
            promote(
                self._name,
                after,
                alias=self._baseline,
                evidence=self._evidence,
                expected=before,
                workspace=self._workspace,
            )
            for event in self._aliases.look():
                self._control.send(event)
        else:
            words = f"rolled back {reason}"
            note(uri, self._name, self._candidate, "canary", before, after, words, evidence=self._evidence)
        with self._lock:
            if pair[1] == self._pair[1]:
                self.owed = False
                self._save()

    def _apply(self, new: CanaryState, candidate: Tally, baseline: Tally) -> None:
        old, self._state = self._state, new
        if new.step != old.step:
            self._candidate_requests = _Requests()
        if new.status != old.status:
            self._figures = tuple(read_guards(self._plan, candidate, baseline))
            self.owed = True
        if new != old:
            self._save()

    def _start(self, pair: tuple[str, str]) -> None:
        """Start the canary of a new candidate, or resume it after a restart."""
        self._pair, self.owed, self._figures, self._evidence = pair, False, (), ""
        self._position, self._candidate_requests, self._baseline_requests = Position(), _Requests(), _Requests()
        now = time.time()
        saved = self._load()
        if saved and saved.candidate == pair[1] and saved.state.status != "running":
            self._state, self._since = saved.state, saved.since
            self.owed, self._figures = saved.owed and saved.baseline == pair[0], saved.figures
        elif saved and (saved.baseline, saved.candidate, saved.plan) == (*pair, self._settings):
            # Time without a recorder does not count as held.
            self._state, self._since = replace(saved.state, began=now, looks=0, judged=0), saved.since
        else:
            self._state, self._since = CanaryState(began=now), now
            self._save()

    def _cancel(self, pair: tuple[str, str]) -> None:
        """Cancel the pending outcome, as both aliases were moved to one release; the decision stays."""
        self._pair, self.owed = pair, False
        saved = self._load()
        if saved and saved.owed:
            state.write_json(self._file, asdict(replace(saved, owed=False)))

    def _load(self) -> _SavedCanary | None:
        """Return the content of the file, None if it cannot be read."""
        try:
            return read_json(_SavedCanary, self._file)
        except (OSError, DecodeError):
            return None

    def _save(self) -> None:
        saved = _SavedCanary(*self._pair, self._settings, self._since, self._state, self.owed, self._figures)
        state.write_json(self._file, asdict(saved))

    def _read_outbox(self) -> None:
        """Read new requests: of the candidate since this step began, of the baseline since the canary began."""
        while True:
            batch = read_batch(self._outbox, self._position, BATCH)
            for record in batch.records:
                if not isinstance(record, OutboxRecord) or record.is_shadow:
                    continue
                source = (f"{record.release}/{record.version}", record.arm)
                if source == (self._pair[1], self._candidate) and record.started_ns / 1e9 >= self._state.began:
                    self._candidate_requests.add(record)
                elif source == (self._pair[0], self._baseline) and record.started_ns / 1e9 >= self._since:
                    self._baseline_requests.add(record)
            moved, self._position = batch.next != self._position, batch.next
            if not moved:
                return

    def _send_shares(self, share: float, status: CanaryStatus | Literal["none"]) -> None:
        """Send the shares to the supervisor if they changed."""
        candidate, reason = self._pair[1], self._state.reason if status != "none" else ""
        shares = SharesChanged(
            self._name,
            self._baseline,
            shares={self._baseline: 1.0 - share, self._candidate: share},
            releases=dict(zip((self._baseline, self._candidate), self._pair, strict=True)),
            canary=CanaryProgress(candidate, status, share, reason),
        )
        if shares != self._sent:
            self._control.send(shares)
            self._sent = shares
