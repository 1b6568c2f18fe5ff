"""Configurations of an endpoint's processes. The supervisor reads its own from `config.json` and sends each child its
part.

Limits and engine settings are mappings: the supervisor only passes them on, and does not import their classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fledge.core.routes import Route
from fledge.core.types import Content

Number = int | float
Settings = Mapping[str, str | bool | int | float]


@dataclass(frozen=True)
class EngineConfig:
    """Configuration of an engine process; `settings` are fields of `EngineSettings`.

    The engine runs the `release` in a folder and listens at `address`, or it runs a `model` (fields of a `Snapshot`)
    and serves the sockets `lines`.
    """

    settings: Settings
    release: str = ""
    address: str = ""
    model: Mapping[str, object] | None = None
    lines: tuple[int, ...] = ()


@dataclass(frozen=True)
class OutboxConfig:
    """Where and how requests are stored for the recorder."""

    folder: str
    cap_bytes: int
    content: Content
    redact: tuple[str, ...]


@dataclass(frozen=True)
class EndpointOptions:
    """Options common to all starts of an endpoint process. `limits` and `fixed_limits`, which a reload does not change,
    are fields of `Limits`."""

    keys_file: str
    cors_origins: tuple[str, ...]
    open_metrics: bool
    open_docs: bool
    tls_cert: str
    tls_key: str
    hosts: tuple[str, ...]
    limits: Mapping[str, Number]
    fixed_limits: Mapping[str, Number]
    outbox: OutboxConfig | None


@dataclass(frozen=True)
class EndpointConfig:
    """Configuration of an endpoint process: `releases` are folders by release, `listener` a socket descriptor."""

    options: EndpointOptions
    routes: tuple[Route, ...]
    releases: Mapping[str, str]
    listener: int


@dataclass(frozen=True)
class WatchedAlias:
    """An alias and the release (`name/3`) served under it."""

    name: str
    alias: str
    release: str


@dataclass(frozen=True)
class CanaryConfig:
    """Options of a canary; `baseline` and `candidate` are aliases of `name`, `file` stores its progress."""

    name: str
    baseline: str
    candidate: str
    steps: tuple[str, ...]
    hold: str
    guards: tuple[str, ...]
    file: str
    state: str


@dataclass(frozen=True)
class RecorderConfig:
    """Configuration of a recorder process; `outbox` is empty if nothing is recorded."""

    outbox: str
    cap_bytes: int
    otlp: str
    tracking_uri: str
    default_name: str
    releases: str
    watch_s: float
    watched: tuple[WatchedAlias, ...]
    canary: CanaryConfig | None


@dataclass(frozen=True)
class LogConfig:
    """The log file, stderr if empty, and whether lines are JSON."""

    file: str
    json: bool


@dataclass(frozen=True)
class ServeCall:
    """The arguments of `serve`: fields of `ServeConfig`, and the targets."""

    config: Mapping[str, object]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class SupervisorConfig:
    """The content of `config.json`; `releases` are folders by release (`name/3`)."""

    url: str
    host: str
    port: int
    folder: str
    heartbeat_s: float
    routes: tuple[Route, ...]
    releases: Mapping[str, str]
    engine: Settings
    endpoint: EndpointOptions
    recorder: RecorderConfig | None
    log: LogConfig
    served: ServeCall
