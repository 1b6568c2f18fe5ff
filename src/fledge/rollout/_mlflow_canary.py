"""A canary on its way: what its releases did is read from the outbox, what follows is told to the supervisor, and how
it ended is left in MLflow."""

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
class _Seen:
    """The latest requests of one release."""

    statuses: deque[int] = field(default_factory=lambda: deque(maxlen=LATEST))
    ttft: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))

    def add(self, record: OutboxRecord) -> None:
        """A client that hung up has waited at least for as long as it did."""
        if 400 <= record.status < HUNG_UP:  # the client's doing, or that of all clients together
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
class _Kept:
    """The content of the canary's file: `owed` says that how it ended is not in MLflow yet, `since` when it began in
    seconds since the epoch, `plan` its steps, hold and guards as they were asked for."""

    baseline: str
    candidate: str
    plan: tuple[tuple[str, ...], str, tuple[str, ...]]
    since: float
    state: CanaryState
    owed: bool
    figures: tuple[GuardReading, ...]


class CanaryWatch:
    """Leads the canary that `about` describes. What it has decided outlives the process, and a release that
    was judged is not tried again until the candidate alias means another."""

    def __init__(
        self, config: RecorderConfig, about: CanaryConfig, aliases: AliasWatch, control: Control[RecorderConfig]
    ) -> None:
        self._asked = (about.steps, about.hold, about.guards)
        self._plan = read_plan(*self._asked)
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
        self._told: SharesChanged | None = None
        self.owed = False  # how it ended is not in MLflow yet
        self.period_s = min(5.0, max(0.5, self._plan.hold_s / 20))

    def step(self) -> None:
        """Look once, and act on it. Asks nobody but the outbox."""
        with self._lock:
            pair = (
                self._aliases.release(self._name, self._baseline),
                self._aliases.release(self._name, self._candidate),
            )
            if pair[0] == pair[1]:  # there is no candidate
                if pair != self._pair:
                    self._settle(pair)
                self._tell(0.0, "none")
                return
            if pair != self._pair:
                self._begin(pair)
            if self._state.status == "running":
                self._read()
                candidate, baseline = self._seen.tally(), self._beside.tally()
                self._decided(decide(self._plan, self._state, candidate, baseline, time.time()), candidate, baseline)
            going_on = self._state.status == "running" or (self._state.status == "passed" and self.owed)
            self._tell(self._plan.steps[self._state.step] if going_on else 0.0, self._state.status)

    def crashed(self, release: str, error: str) -> None:
        """The engine of a release is not started again; where it is the candidate, that is the end of it."""
        with self._lock:
            if release == self._pair[1] and self._state.status == "running":
                reason = f"at {100 * self._plan.steps[self._state.step]:g} % of the requests: {error}"
                self._decided(replace(self._state, status="rolled back", reason=reason), Tally(), Tally())

    def conclude(self) -> None:
        """Leave in MLflow how it ended; a release that has passed becomes what is served. It raises what MLflow
        raises, and is called again then."""
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
                self._keep()

    def _decided(self, new: CanaryState, candidate: Tally, baseline: Tally) -> None:
        old, self._state = self._state, new
        if new.step != old.step:
            self._seen = _Seen()
        if new.status != old.status:
            self._figures = tuple(read_guards(self._plan, candidate, baseline))
            self.owed = True
        if new != old:
            self._keep()

    def _begin(self, pair: tuple[str, str]) -> None:
        """Another release is the candidate, or this process is a new one: go on where it was left, or begin."""
        self._pair, self.owed, self._figures, self._evidence = pair, False, (), ""
        self._position, self._seen, self._beside = Position(), _Seen(), _Seen()
        now = time.time()
        kept = self._kept()
        if kept and kept.candidate == pair[1] and kept.state.status != "running":
            self._state, self._since = kept.state, kept.since
            self.owed, self._figures = kept.owed and kept.baseline == pair[0], kept.figures
        elif kept and (kept.baseline, kept.candidate, kept.plan) == (*pair, self._asked):
            # The time for which nobody looked is not held.
            self._state, self._since = replace(kept.state, began=now, looks=0, judged=0), kept.since
        else:
            self._state, self._since = CanaryState(began=now), now
            self._keep()

    def _settle(self, pair: tuple[str, str]) -> None:
        """Somebody has moved the aliases to one release: what was judged stays judged, and nothing of it is owed."""
        self._pair, self.owed = pair, False
        kept = self._kept()
        if kept and kept.owed:
            state.write_json(self._file, asdict(replace(kept, owed=False)))

    def _kept(self) -> _Kept | None:
        """What the file says; None where there is none that can be read."""
        try:
            return read_json(_Kept, self._file)
        except (OSError, DecodeError):
            return None

    def _keep(self) -> None:
        kept = _Kept(*self._pair, self._asked, self._since, self._state, self.owed, self._figures)
        state.write_json(self._file, asdict(kept))

    def _read(self) -> None:
        """What has come to the outbox: of the candidate in this step, of the one beside it since it began."""
        while True:
            batch = read_batch(self._outbox, self._position, BATCH)
            for record in batch.records:
                if not isinstance(record, OutboxRecord) or record.is_shadow:
                    continue
                came = (f"{record.release}/{record.version}", record.arm)
                if came == (self._pair[1], self._candidate) and record.started_ns / 1e9 >= self._state.began:
                    self._seen.add(record)
                elif came == (self._pair[0], self._baseline) and record.started_ns / 1e9 >= self._since:
                    self._beside.add(record)
            moved, self._position = batch.next != self._position, batch.next
            if not moved:
                return

    def _tell(self, share: float, status: CanaryStatus | Literal["none"]) -> None:
        """Tell the supervisor who gets how much, when it is news."""
        candidate, reason = self._pair[1], self._state.reason if status != "none" else ""
        told = SharesChanged(
            self._name,
            self._baseline,
            shares={self._baseline: 1.0 - share, self._candidate: share},
            releases=dict(zip((self._baseline, self._candidate), self._pair, strict=True)),
            canary=CanaryProgress(candidate, status, share, reason),
        )
        if told != self._told:
            self._control.send(told)
            self._told = told
