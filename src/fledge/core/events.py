"""Events between an endpoint's processes, sent by `control.py`. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass

from fledge.core.endpoint_state import CanaryProgress, EndpointFacts, RecorderFigures
from fledge.core.routes import Route
from fledge.core.types import EngineInfo


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Ping(Event):
    """Supervisor to child: answer with `Pong`."""


@dataclass(frozen=True)
class Pong(Event):
    """Child to supervisor: alive."""


@dataclass(frozen=True)
class StopRequested(Event):
    """Supervisor to child: finish and exit."""


@dataclass(frozen=True)
class SupervisorGone(Event):
    """The connection to the supervisor was closed. Never sent: `Control` creates it."""


@dataclass(frozen=True)
class ChildReady(Event):
    """Child to parent: it accepts requests. An engine adds its `info`."""

    info: EngineInfo | None = None


@dataclass(frozen=True)
class StartProgress(Event):
    """Engine to parent: what it is doing during its start."""

    text: str


@dataclass(frozen=True)
class StartFailed(Event):
    """Child to parent: why it cannot start; `kind` is the class of the error."""

    error: str
    hint: str = ""
    kind: str = ""


@dataclass(frozen=True)
class AliasMoved(Event):
    """Recorder to supervisor: `name@alias` moved to a release, whose files are in `folder`."""

    name: str
    alias: str
    release: str
    folder: str


@dataclass(frozen=True)
class ReleaseRefused(Event):
    """Between recorder and supervisor: the release of `name@alias` cannot be served; `old` stays, from `old_folder` if
    that is known."""

    name: str
    alias: str
    release: str
    old: str
    error: str
    old_folder: str = ""


@dataclass(frozen=True)
class SharesChanged(Event):
    """Recorder to supervisor: new shares of a canary by alias of `name`, valid once its aliases point to `releases`."""

    name: str
    baseline: str
    shares: Mapping[str, float]
    releases: Mapping[str, str]
    canary: CanaryProgress


@dataclass(frozen=True)
class RecordsShipped(Event):
    """Recorder to supervisor: its figures."""

    figures: RecorderFigures


@dataclass(frozen=True)
class LookRequested(Event):
    """Endpoint to supervisor to recorder: check the aliases."""


@dataclass(frozen=True)
class LimitsChanged(Event):
    """Endpoint to supervisor: limits were reloaded."""

    limits: Mapping[str, int | float]


@dataclass(frozen=True)
class ReleaseRetired(Event):
    """Endpoint to supervisor: this release gets no more requests."""

    release: str


@dataclass(frozen=True)
class EngineCrashed(Event):
    """Supervisor to recorder: the engine of a release will not be restarted."""

    release: str
    error: str


@dataclass(frozen=True)
class EngineReady(Event):
    """Supervisor to endpoint: a release's engine listens at `address`."""

    release: str
    address: str


@dataclass(frozen=True)
class ReleasesChanged(Event):
    """Supervisor to endpoint: routes, folders of their releases, and addresses of the engines that are ready."""

    releases: Mapping[str, str]
    routes: tuple[Route, ...]
    addresses: Mapping[str, str]


@dataclass(frozen=True)
class FactsChanged(Event):
    """Supervisor to endpoint: new facts about the other processes."""

    facts: EndpointFacts


@dataclass(frozen=True)
class ReloadRequested(Event):
    """Supervisor to endpoint: reload the limits."""


EVENTS: Mapping[str, type[Event]] = {
    "ping": Ping,
    "pong": Pong,
    "stop": StopRequested,
    "ready": ChildReady,
    "progress": StartProgress,
    "failed": StartFailed,
    "moved": AliasMoved,
    "refused": ReleaseRefused,
    "shares": SharesChanged,
    "recorder": RecordsShipped,
    "look": LookRequested,
    "limits": LimitsChanged,
    "retired": ReleaseRetired,
    "crashed": EngineCrashed,
    "engine_ready": EngineReady,
    "releases": ReleasesChanged,
    "facts": FactsChanged,
    "reload": ReloadRequested,
}
"""Event classes by the names in messages."""
