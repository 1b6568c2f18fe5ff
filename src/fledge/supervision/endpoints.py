"""`serve`, `status`, `stop`: endpoints as a user handles them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace, option, out_of_range
from fledge.models.manifest import Manifest, load_manifest
from fledge.models.selection import EngineSettings, release_folder

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
MINIMUM_KEY_BYTES = 32
START_TIMEOUT_S = 180.0

# Supervisors that this process started: they outlive it, but as long as it lives they are its children to reap.
_started: "dict[int, subprocess.Popen[bytes]]" = {}


@dataclass(frozen=True)
class ServeConfig(EngineSettings):
    """How an endpoint is served."""

    host: str = option("127.0.0.1", "address to listen on; beyond loopback FLEDGE_API_KEY must be set")
    port: int = option(5001, "port to listen on")
    allowed_hosts: tuple[str, ...] = option((), "names by which clients may call this endpoint beyond loopback")
    drain_s: float = option(30.0, "seconds that running requests get to finish at a stop")
    record: bool = option(True, "record each request as a trace in MLflow")

    def problems(self) -> list[str]:
        return super().problems() + out_of_range(self, ("port", 1, 65535), ("drain_s", 0, 3600))


@dataclass(frozen=True)
class EndpointStatus:
    """A running endpoint. `processes` hold role, pid, memory_bytes and restarts."""

    url: str
    state: str
    pid: int
    ready_seconds: float | None
    releases: list[dict[str, Any]]
    processes: list[dict[str, Any]]
    folder: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def trace_experiment(name: str) -> str:
    """The MLflow experiment that holds the traces of a served model."""
    return f"{name}-endpoint"


def serve(config: ServeConfig, target: str) -> EndpointStatus:
    """Start the endpoint of a release in the background and return when it is ready.

    Raises `InputError` for an unknown release or a port in use, `FledgeError` with the log's end if it does not start.
    """
    path = prepare(config, target)
    log = path.with_name("log.txt")
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
        process = subprocess.Popen(
            supervisor_command(path), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    _started[process.pid] = process
    try:
        return _wait_until_ready(process, path.parent, log)
    except BaseException:
        _terminate(process.pid, config.drain_s)
        raise


def prepare(config: ServeConfig, target: str) -> Path:
    """Check host, key and port, find the release, and write the configuration of its supervisor; returns its path."""
    _check_key(config.host)
    folder = state.ensure(config.state_dir / "endpoints" / str(config.port))
    check_port(config)
    if not target:
        raise InputError("name a release", hint="fledge serve NAME@champion")
    release = release_folder(target, config)
    manifest = load_manifest(release)
    path = folder / "config.json"
    state.write_json(path, _configuration(config, release, manifest, folder))
    return path


def supervisor_command(config_file: Path) -> list[str]:
    return [sys.executable, "-m", "fledge.supervision.supervisor", str(config_file)]


def status(workspace: Workspace) -> list[EndpointStatus]:
    """The endpoints that run in this workspace, by port. What a killed supervisor left behind is not shown."""
    for child in _started.values():
        child.poll()  # reaps those that ended
    found = []
    for path in sorted((workspace.state_dir / "endpoints").glob("*/state.json")):
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if _is_supervisor(content["pid"]):
                found.append(_status(content, path.parent))
    return found


def stop(workspace: Workspace, port: int | None = None) -> list[EndpointStatus]:
    """Stop the endpoint on `port`, or the only one there is; returns what was stopped when its processes are gone."""
    running = status(workspace)
    chosen = [item for item in running if port is None or item.url.endswith(f":{port}")]
    if not chosen:
        raise InputError(f"no endpoint runs{f' on port {port}' if port else ''} here", hint="fledge status")
    if len(chosen) > 1:
        raise InputError("several endpoints run here", hint=f"fledge stop --port {chosen[0].url.rpartition(':')[2]}")
    config = json.loads((Path(chosen[0].folder) / "config.json").read_text(encoding="utf-8"))
    _terminate(chosen[0].pid, float(config["drain_s"]))
    return chosen


def _configuration(config: ServeConfig, release: Path, manifest: Manifest, folder: Path) -> dict[str, Any]:
    outbox = str(folder / "outbox")
    return {
        "url": f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{config.port}",
        "host": config.host,
        "port": config.port,
        "folder": str(folder),
        "drain_s": config.drain_s,
        "release": {"name": manifest.name, "version": manifest.version, "prompt": manifest.prompt_name},
        "engine": {
            "release": str(release),
            "settings": {item.name: getattr(config, item.name) for item in fields(EngineSettings)},
        },
        "endpoint": {
            "release": str(release),
            "hosts": [config.host, *config.allowed_hosts],
            "outbox": outbox,
            "record": config.record,
            "drain_s": config.drain_s,
        },
        "recorder": {
            "outbox": outbox,
            "tracking_uri": config.tracking,
            "experiment": trace_experiment(manifest.name),
        }
        if config.record
        else None,
    }


def _check_key(host: str) -> None:
    if host in LOOPBACK_HOSTS:
        return
    if len(os.environ.get("FLEDGE_API_KEY", "").encode()) < MINIMUM_KEY_BYTES:
        raise InputError(
            f"listening on {host} needs a key of at least {MINIMUM_KEY_BYTES} bytes",
            hint='export FLEDGE_API_KEY="$(openssl rand -hex 32)", or keep --host 127.0.0.1',
        )


def check_port(config: ServeConfig) -> None:
    """Raise `InputError` if the port is in use, with the pid if the endpoint there is ours."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            ours = next((item.pid for item in status(config) if item.url.endswith(f":{config.port}")), None)
            by = f" by fledge's own endpoint, pid {ours} (fledge stop --port {config.port})" if ours else ""
            raise InputError(
                f"port {config.port} on {config.host} cannot be used: {(error.strerror or str(error)).lower()}{by}",
                hint=f"choose another with --port {config.port + 1}",
            ) from None


def _wait_until_ready(process: "subprocess.Popen[bytes]", folder: Path, log: Path) -> EndpointStatus:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if content["pid"] == process.pid and content["state"] == "ready":
                return _status(content, folder)
        if process.poll() is not None:
            break
        time.sleep(0.1)
    last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    raise FledgeError(f"the endpoint did not start:\n{last}", hint=f"read {log}")


def _status(content: dict[str, Any], folder: Path) -> EndpointStatus:
    processes = [{**item, "memory_bytes": _memory(item["pid"])} for item in content["processes"]]
    return EndpointStatus(
        url=content["url"],
        state=content["state"],
        pid=content["pid"],
        ready_seconds=content["ready_seconds"],
        releases=content["releases"],
        processes=processes,
        folder=str(folder),
    )


def _memory(pid: int) -> int:
    """Proportional set size where the system tells it, else resident; 0 if the process is gone."""
    try:
        memory = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(memory, "pss", memory.rss))


def _is_supervisor(pid: int) -> bool:
    try:
        return "fledge.supervision.supervisor" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _terminate(pid: int, drain_s: float) -> None:
    """SIGTERM, and SIGKILL when it takes longer than a stop may; returns when the process is gone."""
    for number, patience in ((signal.SIGTERM, drain_s + 30.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _gone_within(pid, patience):
            return


def _gone_within(pid: int, seconds: float) -> bool:
    return any(_is_gone(pid) for _ in _ticks(seconds))


def _is_gone(pid: int) -> bool:
    child = _started.get(pid)
    if child:
        return child.poll() is not None
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _ticks(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
