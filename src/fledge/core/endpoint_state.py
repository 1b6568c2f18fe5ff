"""Status of an endpoint's processes, sent between them and written to `state.json`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ReleaseState:
    """A release that is served or loading, with its aliases."""

    name: str
    version: int
    aliases: tuple[str, ...]
    ready: bool


@dataclass(frozen=True)
class ProcessState:
    """A running process: `role` is supervisor, endpoint, engine or recorder; `release` is set for an engine."""

    role: str
    pid: int
    restarts: int
    release: str = ""


@dataclass(frozen=True)
class RecorderFigures:
    """Numbers of records shipped since the recorder started, waiting, and refused by MLflow."""

    shipped: int
    waiting: int
    refused: int
    last_error: str


@dataclass(frozen=True)
class CanaryProgress:
    """The candidate `release` of a canary with its `share` of the requests (0 to 1); `none` without a
    candidate."""

    release: str
    status: Literal["running", "passed", "rolled back", "none"]
    share: float
    reason: str


@dataclass(frozen=True)
class EndpointFacts:
    """Status of recorder, canary and refused releases, as reported to the supervisor."""

    recorder: RecorderFigures | None = None
    refused: tuple[str, ...] = ()
    canary: CanaryProgress | None = None


@dataclass(frozen=True)
class EndpointState:
    """The content of `state.json`; `progress` are messages of engines that are not ready yet, newest last."""

    url: str
    state: Literal["starting", "ready", "stopping"]
    pid: int
    ready_seconds: float | None
    releases: tuple[ReleaseState, ...]
    processes: tuple[ProcessState, ...]
    progress: tuple[str, ...]
    last_error: str
    recorder: RecorderFigures | None
    canary: CanaryProgress | None
