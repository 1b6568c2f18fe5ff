"""The events that an endpoint's processes tell each other, by `control.py`. Standard library only."""

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
    """Child to supervisor: still there."""


@dataclass(frozen=True)
class StopRequested(Event):
    """Supervisor to child: finish and end."""


@dataclass(frozen=True)
class SupervisorGone(Event):
    """The line to the supervisor has ended. Never sent: `Control` notices it."""


@dataclass(frozen=True)
class ChildReady(Event):
    """Child to its parent: it takes requests. An engine says which it is."""

    info: EngineInfo | None = None


@dataclass(frozen=True)
class StartProgress(Event):
    """Engine to its parent: what it is doing before it is ready."""

    text: str


@dataclass(frozen=True)
class StartFailed(Event):
    """Child to its parent: why it cannot start; `kind` is the class of the error."""

    error: str
    hint: str = ""
    kind: str = ""


@dataclass(frozen=True)
class AliasMoved(Event):
    """Recorder to supervisor: `name@alias` means another release, whose files are in `folder`."""

    name: str
    alias: str
    release: str
    folder: str


@dataclass(frozen=True)
class ReleaseRefused(Event):
    """Between recorder and supervisor: `name@alias` means a release that cannot be served; `old` stays, from
    `old_folder` where that is known."""

    name: str
    alias: str
    release: str
    old: str
    error: str
    old_folder: str = ""


@dataclass(frozen=True)
class SharesChanged(Event):
    """Recorder to supervisor: a canary shares the requests of `name` by alias so, once its aliases mean `releases`."""

    name: str
    baseline: str
    shares: Mapping[str, float]
    releases: Mapping[str, str]
    canary: CanaryProgress


@dataclass(frozen=True)
class RecordsShipped(Event):
    """Recorder to supervisor: how far it is."""

    figures: RecorderFigures


@dataclass(frozen=True)
class LookRequested(Event):
    """Endpoint to supervisor to recorder: an alias may have moved."""


@dataclass(frozen=True)
class LimitsChanged(Event):
    """Endpoint to supervisor: limits were read again."""

    limits: Mapping[str, int | float]


@dataclass(frozen=True)
class ReleaseRetired(Event):
    """Endpoint to supervisor: nothing more is asked of this release."""

    release: str


@dataclass(frozen=True)
class EngineCrashed(Event):
    """Supervisor to recorder: the engine of a release is not started again."""

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
    """Supervisor to endpoint: what it has heard of others."""

    facts: EndpointFacts


@dataclass(frozen=True)
class ReloadRequested(Event):
    """Supervisor to endpoint: read the limits again."""


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
"""By the names that they have on the line."""
