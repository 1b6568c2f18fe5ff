"""A canary on its way: what its releases did is read from the outbox, what follows is told to the supervisor, and how
it ended is left in MLflow."""

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fledge.core import state
from fledge.core.control import Control
from fledge.core.messages import OutboxRecord
from fledge.core.settings import Workspace
from fledge.monitoring._mlflow_aliases import AliasWatch
from fledge.monitoring.canary import LATEST, CanaryState, Tally, decide, read_guards, read_plan
from fledge.monitoring.outbox_reader import Position, read_batch
from fledge.registry._mlflow_canary import record_canary
from fledge.registry.release import note, promote

BATCH = 1000
RETRY_S = 10.0


@dataclass
class _Seen:
    """The latest requests of one release."""

    statuses: deque[int] = field(default_factory=lambda: deque(maxlen=LATEST))
    ttft: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))

    def add(self, record: OutboxRecord) -> None:
        if record.status in (400, 429, 499):  # the client's doing, or ours for all alike
            return
        self.statuses.append(record.status)
        if record.status == 200:
            self.latency.append((record.ended_ns - record.started_ns) / 1e9)
            if record.first_token_ns:
                self.ttft.append((record.first_token_ns - record.started_ns) / 1e9)

    def tally(self) -> Tally:
        errors = sum(status >= 500 for status in self.statuses)
        return Tally(len(self.statuses), errors, tuple(self.ttft), tuple(self.latency))


class CanaryWatch:
    """Leads the canary that `config["canary"]` describes. What it has decided outlives the process."""

    def __init__(self, config: Mapping[str, Any], aliases: AliasWatch, control: Control) -> None:
        about = config["canary"]
        self._plan = read_plan(about["steps"], about["hold"], about["guards"])
        self._name, self._steady, self._trial = about["name"], about["steady"], about["trial"]
        self._file, self._outbox = Path(about["file"]), Path(config["outbox"])
        self._workspace = Workspace(config["tracking_uri"], about["state"])
        self._aliases, self._control = aliases, control
        self._pair = ("", "")
        self._state = CanaryState()
        self._since = 0.0
        self._figures: list[dict[str, Any]] = []
        self._position = Position()
        self._seen: dict[str, _Seen] = {}
        self._all: dict[str, _Seen] = {}
        self._owed = False
        self._due = 0.0
        self._evidence = ""
        self._told: dict[str, Any] = {}

    def step(self) -> None:
        """Look once, and act on it. Raises what MLflow raises where it does not take how it ended; call again."""
        pair = (self._aliases.release(self._name, self._steady), self._aliases.release(self._name, self._trial))
        if pair != self._pair:
            self._begin(pair)
        if pair[0] == pair[1]:  # nothing is on trial
            self._tell(0.0, "none")
            return
        if self._state.condition == "running":
            self._read()
            trial, steady = self._seen[pair[1]].tally(), self._all[pair[0]].tally()
            decided = decide(self._plan, self._state, trial, steady, time.time())
            if decided != self._state:
                self._figures = [asdict(reading) for reading in read_guards(self._plan, trial, steady)]
                self._owed = decided.condition != "running"
                self._keep(decided)
        self._tell(self._state.share(self._plan), self._state.condition)
        if self._owed and time.monotonic() >= self._due:
            self._due = time.monotonic() + RETRY_S
            self._end()

    def _begin(self, pair: tuple[str, str]) -> None:
        """Another release is on trial, or this process is a new one: go on where it was left, or begin."""
        self._pair, self._owed, self._figures, self._evidence = pair, False, [], ""
        self._position = Position()
        self._seen = {release: _Seen() for release in pair}
        self._all = {release: _Seen() for release in pair}
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            known = content["pair"] == list(pair)
        except (OSError, ValueError, LookupError, TypeError):
            known = False
        if known:
            self._state, self._since = CanaryState(**content["state"]), content["since"]
            self._owed, self._figures = content["owed"], content["figures"]
        else:
            self._since = time.time()
            self._keep(CanaryState(began=self._since))

    def _keep(self, new: CanaryState) -> None:
        if new.step != self._state.step:
            self._seen = {release: _Seen() for release in self._pair}
        self._state = new
        content = {"pair": self._pair, "since": self._since, "state": asdict(new)}
        state.write_json(self._file, {**content, "owed": self._owed, "figures": self._figures})

    def _read(self) -> None:
        """What has come to the outbox; what a file held before this process or this step is left out by its time."""
        while True:
            batch = read_batch(self._outbox, self._position, BATCH)
            for record in batch.records:
                if not isinstance(record, OutboxRecord) or record.arm not in (self._steady, self._trial):
                    continue
                release, began = f"{record.release}/{record.version}", record.started_ns / 1e9
                if release in self._all and began >= self._since:
                    self._all[release].add(record)
                    if began >= self._state.began:
                        self._seen[release].add(record)
            moved, self._position = batch.next != self._position, batch.next
            if not moved:
                return

    def _tell(self, share: float, condition: str) -> None:
        """Tell the supervisor who gets how much, when it is news."""
        trial, reason = self._pair[1], self._state.reason if condition != "none" else ""
        told = {
            "name": self._name,
            "shares": {self._steady: 1.0 - share, self._trial: share},
            "releases": dict(zip((self._steady, self._trial), self._pair, strict=True)),
            "canary": {"release": trial, "condition": condition, "share": share, "reason": reason},
        }
        if told != self._told:
            self._control.send(event="shares", **told)
            self._told = told

    def _end(self) -> None:
        """Leave in MLflow how it ended; a release that has passed becomes what is served."""
        before, after = (int(release.rpartition("/")[2]) for release in self._pair)
        uri = self._workspace.tracking
        passed, reason = self._state.condition == "passed", self._state.reason
        self._evidence = self._evidence or record_canary(uri, self._name, after, passed, reason, self._figures)
        if passed:
            promote(self._workspace, self._name, after, alias=self._steady, evidence=self._evidence, expected=before)
            for move in self._aliases.look():
                self._control.send(**move)
        else:
            words = f"rolled back {reason}"
            note(uri, self._name, self._trial, "canary", before, after, words, evidence=self._evidence)
        self._owed = False
        self._keep(self._state)
