"""State of an endpoint's processes, which they exchange and write to `state.json`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ReleaseState:
    """A release that is served or starting, with its aliases."""

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
    """Numbers of records in MLflow since the recorder started, still waiting, and refused by MLflow."""

    shipped: int
    waiting: int
    refused: int
    last_error: str


@dataclass(frozen=True)
class CanaryProgress:
    """The candidate `release` of a canary with its `share` of the requests (0 to 1); `none` without a candidate."""

    release: str
    status: Literal["running", "passed", "rolled back", "none"]
    share: float
    reason: str


@dataclass(frozen=True)
class EndpointFacts:
    """The supervisor's knowledge of recorder, canary and refused releases."""

    recorder: RecorderFigures | None = None
    refused: tuple[str, ...] = ()
    canary: CanaryProgress | None = None


@dataclass(frozen=True)
class EndpointState:
    """The content of `state.json`; `progress` has the messages of engines that are starting, newest last."""

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
