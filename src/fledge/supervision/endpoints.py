"""`serve`, `status`, `stop`, `restart`: control endpoints."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from fledge.core import state
from fledge.core.decoding import read_json
from fledge.core.endpoint_config import (
    CanaryConfig,
    EndpointOptions,
    LogConfig,
    OutboxConfig,
    RecorderConfig,
    ServeCall,
    SupervisorConfig,
    WatchedAlias,
)
from fledge.core.endpoint_state import CanaryProgress, EndpointState, ProcessState, RecorderFigures, ReleaseState
from fledge.core.errors import CrashLoopError, FledgeError, InputError
from fledge.core.limits import Limits
from fledge.core.memory import proportional_bytes
from fledge.core.network import family_of, port_error, without_password
from fledge.core.processes import module_command
from fledge.core.settings import Workspace, load
from fledge.core.types import Say, silent
from fledge.engines.selection import release_folder
from fledge.engines.settings import EngineSettings
from fledge.releases import release_cache
from fledge.releases.manifest import Manifest, load_manifest
from fledge.supervision.checks import check
from fledge.supervision.config import ServeConfig
from fledge.supervision.log import message_of
from fledge.supervision.processes import command_of, environment_of, reap, start_detached, terminate
from fledge.supervision.route_plan import RoutePlan, plan_routes

if TYPE_CHECKING:
    import subprocess


START_TIMEOUT_S = 180.0  # without any progress
HEARTBEAT_S = 15.0
STOP_MARGIN_S = 30.0
SUPERVISOR = "fledge.supervision.supervisor"


@dataclass(frozen=True)
class ProcessStatus(ProcessState):
    """A running process with its memory; `release` is set only for an engine."""

    memory_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, without an empty release."""
        return {name: value for name, value in asdict(self).items() if name != "release" or value}


@dataclass(frozen=True)
class EndpointStatus:
    """A running endpoint. `recorder` is None before its first report, `canary` without a canary; `progress` has the
    start messages of engines that are not ready, newest last."""

    url: str
    state: str
    pid: int
    ready_seconds: float | None
    releases: tuple[ReleaseState, ...]
    processes: tuple[ProcessStatus, ...]
    last_error: str
    folder: str
    recorder: RecorderFigures | None = None
    canary: CanaryProgress | None = None
    progress: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "processes": [process.as_dict() for process in self.processes]}


def serve(*targets: str, config: ServeConfig | None = None, say: Say = silent) -> EndpointStatus:
    """Start an endpoint for one or more releases in the background and return when it is ready; `say` gets progress.

    Raises `InputError` for an unknown release or a port in use, `FledgeError` with the end of the log if it fails.
    """
    return _serve(config or ServeConfig(), targets, os.environ, say)


def _serve(config: ServeConfig, targets: Sequence[str], environ: Mapping[str, str], say: Say) -> EndpointStatus:
    with claim_port(config, environ):
        path = prepare(config, *targets, detached=True, environ=environ, say=say)
        folders = [Path(folder) for folder in read_config(path).releases.values()]
        try:
            running = _start(config, path, environ, say)
            if all(folder.is_dir() for folder in folders):
                return running
            terminate(running.pid, config.limits.drain_s + STOP_MARGIN_S)
        except FledgeError:
            if all(folder.is_dir() for folder in folders):
                raise
        # The cached copy was damaged and has been deleted; fetch it again.
        path = prepare(config, *targets, detached=True, environ=environ, say=say)
        return _start(config, path, environ, say)


def _start(config: ServeConfig, path: Path, environ: Mapping[str, str], say: Say) -> EndpointStatus:
    with state.open_to_append(log_file(path.parent)) as file:
        process = start_detached(supervisor_command(path), file, environ)
    try:
        return _wait_until_ready(config, process, path.parent, say)
    except BaseException:
        terminate(process.pid, config.limits.drain_s + STOP_MARGIN_S)
        raise


@contextlib.contextmanager
def claim_port(config: ServeConfig, environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Lock the port in this workspace; a program started by exec keeps the lock until it ends.

    Raises `InputError` if another process holds the lock, or for invalid settings.
    """
    check(config, environ)
    folder = state.ensure(config.state_dir / "endpoints" / str(config.port))
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            check_port(config)
            raise InputError(
                f"port {config.port}: another fledge serve is starting an endpoint on it",
                hint=f"choose another port: --port {config.port + 1}",
            ) from None
        os.set_inheritable(lock.fileno(), True)
        yield


def prepare(
    config: ServeConfig,
    *targets: str,
    detached: bool = False,
    environ: Mapping[str, str] = os.environ,
    say: Say = silent,
) -> Path:
    """Check the settings and port, find the releases, write the supervisor's configuration and return its path.

    A `detached` endpoint logs to a file.
    """
    check_start(config, environ)
    folder = state.ensure(config.state_dir / "endpoints" / str(config.port))
    if not targets or not all(targets):
        raise InputError("name a release", hint="fledge serve NAME@champion")
    plan = plan_routes(targets, config.split, config.shadow, config.canary)
    found = {reference: _find(config, reference, say) for reference in plan.references}
    path = _config_file(folder)
    content = _build_config(config, plan, found, folder, environ)
    log = LogConfig(str(log_file(folder)) if detached else "", config.log_json)
    state.write_json(path, asdict(replace(content, log=log, served=ServeCall(asdict(config), targets))))
    return path


def check_start(config: ServeConfig, environ: Mapping[str, str] = os.environ) -> None:
    """Raise `InputError` for invalid settings or a port in use."""
    check(config, environ)
    check_port(config)


def supervisor_command(config_file: Path) -> list[str]:
    return [*module_command(SUPERVISOR), str(config_file)]


def read_config(path: Path) -> SupervisorConfig:
    """Return the configuration that `prepare` wrote."""
    return read_json(SupervisorConfig, path)


def _config_file(folder: Path) -> Path:
    """Return the configuration file, which is the supervisor's argument and identifies it."""
    return folder.resolve() / "config.json"


def _find(config: ServeConfig, reference: release_cache.ReleaseRef, say: Say) -> tuple[Path, Manifest]:
    """Return the folder and manifest of a release from the cache, else from MLflow. The running endpoint checks later
    whether the alias has moved."""
    releases = config.state_dir / "releases"
    folder = release_cache.recall(releases, config.tracking, reference)
    if folder is None:
        say(f"fetching {reference.text} from {without_password(config.tracking)}")
        folder = release_folder(reference.text, config)
        release_cache.remember(releases, config.tracking, reference, folder)
    return folder, load_manifest(folder)  # the engine checks the files before it loads them


def log_file(folder: Path) -> Path:
    """Return the log of the endpoint with this folder; older parts are `log.txt.1` and so on."""
    return folder / "log.txt"


def find_log(port: int | None = None, *, workspace: Workspace | None = None) -> Path:
    """Return the log of the endpoint on `port`, running or stopped, by default of the only running one.

    Raises `InputError` if there is none.
    """
    folder = (workspace or Workspace()).state_dir / "endpoints" / str(port)
    if port is None or not log_file(folder).is_file():
        folder = Path(find(port, workspace=workspace).folder)
    if not read_config(_config_file(folder)).log.file:
        raise InputError("the endpoint runs in the foreground and logs to its terminal", hint="--detach")
    return log_file(folder)


def restart(port: int | None = None, *, workspace: Workspace | None = None, say: Say = silent) -> EndpointStatus:
    """Stop an endpoint and start it again with the same settings. Its environment completes this one, for instance
    with its key. Raises `InputError` before it stops if the settings are invalid now."""
    chosen = find(port, workspace=workspace)
    content = read_config(_config_file(Path(chosen.folder)))
    environ = {**environment_of(chosen.pid), **os.environ}
    limits = load(Limits, environ=environ).value.override(content.endpoint.fixed_limits)
    config = replace(TypeAdapter(ServeConfig).validate_python(content.served.config), limits=limits)
    check(config, environ)
    stop(config.port, workspace=workspace)
    return _serve(config, content.served.targets, environ, say)


def targets(endpoint: EndpointStatus) -> list[str]:
    """Return the targets that an endpoint was started with."""
    return list(read_config(_config_file(Path(endpoint.folder))).served.targets)


def find(port: int | None = None, *, workspace: Workspace | None = None) -> EndpointStatus:
    """Return the endpoint on `port`, by default the only running one. Raises `InputError` for none or several."""
    chosen = [item for item in status(workspace=workspace) if port is None or item.url.endswith(f":{port}")]
    if not chosen:
        raise InputError(f"no endpoint is running{f' on port {port}' if port else ' here'}", hint="fledge status")
    if len(chosen) > 1:
        first = chosen[0].url.rpartition(":")[2]
        raise InputError("several endpoints are running here", hint=f"name one: --port {first}")
    return chosen[0]


def status(*, workspace: Workspace | None = None) -> list[EndpointStatus]:
    """Return the running endpoints of this workspace by port, without leftovers of a killed supervisor."""
    reap()
    found = []
    for path in sorted(((workspace or Workspace()).state_dir / "endpoints").glob("*/state.json")):
        with contextlib.suppress(OSError, ValueError):
            content = read_json(EndpointState, path)
            if _is_supervisor(content.pid, path.parent):
                found.append(_build_status(content, path.parent))
    return found


def stop(port: int | None = None, *, workspace: Workspace | None = None) -> list[EndpointStatus]:
    """Stop the endpoint on `port`, by default the only running one; return its last status."""
    chosen = find(port, workspace=workspace)
    config = read_config(_config_file(Path(chosen.folder)))
    terminate(chosen.pid, config.endpoint.limits["drain_s"] + STOP_MARGIN_S)
    return [chosen]


def _build_config(
    config: ServeConfig,
    plan: RoutePlan,
    found: Mapping[release_cache.ReleaseRef, tuple[Path, Manifest]],
    folder: Path,
    environ: Mapping[str, str],
) -> SupervisorConfig:
    names = {reference: f"{manifest.name}/{manifest.version}" for reference, (_, manifest) in found.items()}
    watched = tuple(WatchedAlias(item.name, item.alias, names[item]) for item in found if item.alias)
    return SupervisorConfig(
        url=config.url,
        host=config.host,
        port=config.port,
        folder=str(folder),
        heartbeat_s=config.heartbeat_s,
        routes=plan.routes(names),
        releases={names[reference]: str(where.resolve()) for reference, (where, _) in found.items()},
        engine={item.name: getattr(config, item.name) for item in fields(EngineSettings)},
        endpoint=_build_endpoint_options(config, folder, environ),
        recorder=_build_recorder_config(config, plan, watched, folder) if config.record or config.watch_s else None,
        log=LogConfig("", config.log_json),
        served=ServeCall(asdict(config), ()),
    )


def _build_endpoint_options(config: ServeConfig, folder: Path, environ: Mapping[str, str]) -> EndpointOptions:
    cap_bytes = config.outbox_mb * 1_000_000
    return EndpointOptions(
        keys_file=config.keys_file,
        cors_origins=config.cors_origins,
        open_metrics=config.open_metrics,
        open_docs=config.open_docs,
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
        hosts=(config.host, *config.allowed_hosts),
        limits=asdict(config.limits),
        fixed_limits=_explicit_limits(config.limits, environ),
        outbox=OutboxConfig(str(folder / "outbox"), cap_bytes, config.record_content, config.redact)
        if config.record
        else None,
    )


def _build_recorder_config(
    config: ServeConfig, plan: RoutePlan, watched: tuple[WatchedAlias, ...], folder: Path
) -> RecorderConfig:
    first = plan.references[0]
    canary = CanaryConfig(
        first.name,
        baseline=first.alias,
        candidate=config.canary,
        steps=config.steps,
        hold=config.hold,
        guards=config.guard,
        file=str((folder / "canary.json").resolve()),
        state=str(config.state_dir.resolve()),
    )
    return RecorderConfig(
        outbox=str(folder / "outbox") if config.record else "",
        cap_bytes=config.outbox_mb * 1_000_000,
        otlp=config.otlp,
        tracking_uri=config.tracking,
        default_name=first.name,
        releases=str((config.state_dir / "releases").resolve()),
        watch_s=config.watch_s,
        watched=watched,
        canary=canary if config.canary else None,
    )


def _explicit_limits(limits: Limits, environ: Mapping[str, str]) -> dict[str, int | float]:
    """Return the limits set by flags: they stay fixed when the others are reloaded."""
    elsewhere = load(Limits, environ=environ).value
    return {name: value for name, value in asdict(limits).items() if value != getattr(elsewhere, name)}


def check_port(config: ServeConfig) -> None:
    """Raise `InputError` if the port is in use, with the pid if it belongs to a fledge endpoint."""
    with socket.socket(family_of(config.host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            ours = next((item.pid for item in status(workspace=config) if item.url.endswith(f":{config.port}")), None)
            by = f" by fledge's own endpoint, pid {ours} (fledge stop --port {config.port})" if ours else ""
            raise port_error(config.host, config.port, error, by) from None


def _wait_until_ready(
    config: ServeConfig, process: "subprocess.Popen[bytes]", folder: Path, say: Say
) -> EndpointStatus:
    started = progressed = reported = time.monotonic()
    shown: set[str] = set()
    while (now := time.monotonic()) - progressed < START_TIMEOUT_S:
        with contextlib.suppress(OSError, ValueError):
            content = read_json(EndpointState, folder / "state.json")
            if content.pid == process.pid and content.state == "ready":
                return _build_status(content, folder)
            for text in content.progress if content.pid == process.pid else ():
                if text not in shown:
                    shown.add(text)
                    say(text)
                    progressed = reported = now
        if process.poll() is not None:
            break
        if now - reported >= HEARTBEAT_S:
            reported = now
            say(f"starting, {now - started:.0f} s so far")
        time.sleep(0.1)
    if process.poll() == InputError.exit_code:
        check_port(config)
    log = log_file(folder)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = "\n".join(message_of(line) for line in lines[-5:])
    kind = CrashLoopError if process.poll() == CrashLoopError.exit_code else FledgeError
    raise kind(f"the endpoint did not start:\n{last}", hint=f"read {log}")


def _build_status(content: EndpointState, folder: Path) -> EndpointStatus:
    processes = tuple(
        ProcessStatus(**vars(item), memory_bytes=proportional_bytes(item.pid)) for item in content.processes
    )
    return EndpointStatus(**{**vars(content), "processes": processes, "folder": str(folder)})


def _is_supervisor(pid: int, folder: Path) -> bool:
    """Return whether `pid` is the supervisor of this endpoint: the system may have reused the pid."""
    command = command_of(pid)
    return command[-1:] == [str(_config_file(folder))] and any(SUPERVISOR in part for part in command)
