"""`fledge serve`, `status`, `stop`, `restart`, `logs`, `test`, `feedback`, `monitor`."""

import os
import sys
from collections import deque
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.table import Table

from fledge.cli.options import command, settings
from fledge.cli.output import emit, emit_exactly, json_option, message, table
from fledge.client.checks import check_endpoint, give_feedback
from fledge.core.errors import FledgeError, InputError
from fledge.core.installation import wheel_name
from fledge.core.settings import Workspace, load
from fledge.supervision import endpoints, recipes
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoint_health import monitor as read_health
from fledge.supervision.endpoints import EndpointStatus


@command()
@settings(ServeConfig)
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("--detach", is_flag=True, help="Run the endpoint in the background; return when it is ready.")
@click.option("--print-unit", is_flag=True, help="Print a systemd unit for this command and exit.")
@click.option("--print-dockerfile", is_flag=True, help="Print a Dockerfile for this command and exit.")
@json_option
def serve(
    targets: tuple[str, ...], detach: bool, print_unit: bool, print_dockerfile: bool, as_json: bool, **flags: Any
) -> None:
    """Serve each TARGET: NAME@alias, NAME/version, or NAME for its champion. A request's `model` chooses among them."""
    config = load(ServeConfig, flags).value
    if print_unit:
        arguments = recipes.words(targets, flags)
        emit_exactly(recipes.systemd_unit(sys.executable, str(Path.cwd()), arguments, config.limits.drain_s))
        return
    if print_dockerfile:
        arguments = recipes.words(targets, {**flags, "host": None})
        emit_exactly(recipes.dockerfile(metadata.version("fledge"), wheel_name(), arguments, config.port))
        return
    serve_targets(config, targets, detach, as_json, {})


def serve_targets(
    config: ServeConfig, targets: tuple[str, ...], detach: bool, as_json: bool, about: dict[str, Any]
) -> None:
    """Serve targets in the foreground or background and print the endpoint, with `about` in its JSON."""
    if not detach:
        _serve_here(config, targets, as_json, about)
    running = endpoints.serve(*targets, say=message, config=config)
    value = {
        **about,
        "url": running.url,
        "pid": running.pid,
        "version": running.releases[0].version,
        "ready_seconds": running.ready_seconds,
    }
    emit(as_json, value, f"{running.url} is ready, pid {running.pid}")
    if running.last_error:
        message(f"but {running.last_error}")
    if not as_json:
        message(f"next: fledge test {running.url}, then fledge stop")


def _serve_here(config: ServeConfig, targets: tuple[str, ...], as_json: bool, about: dict[str, Any]) -> NoReturn:
    """Replace this process by the endpoint's supervisor."""
    with endpoints.claim_port(config):
        path = endpoints.prepare(config, *targets, say=message)
        if as_json:
            version = int(next(iter(endpoints.read_config(path).releases)).rpartition("/")[2])
            emit(True, {**about, "url": config.url, "pid": os.getpid(), "version": version, "ready_seconds": None})
        message(f"serving {', '.join(targets)} on {config.url}; Ctrl-C stops it")
        command = endpoints.supervisor_command(path)
        os.execv(command[0], command)


@command()
@settings(Workspace)
@json_option
def status(as_json: bool, **flags: Any) -> None:
    """Show the endpoints of this workspace with their processes and memory."""
    found = endpoints.status(workspace=load(Workspace, flags).value)
    value = {"endpoints": [item.as_dict() for item in found]}
    shown = [line for item in found for line in _describe(item)]
    emit(as_json, value, *shown or ["no endpoint is running"])


@command()
@settings(Workspace)
@click.option("--port", type=int, help="Port of the endpoint. [default: the only running one]")
@json_option
def stop(port: int | None, as_json: bool, **flags: Any) -> None:
    """Stop an endpoint after its running requests have finished and its records are shipped."""
    stopped = endpoints.stop(port, workspace=load(Workspace, flags).value)
    value = {"endpoints": [item.as_dict() for item in stopped]}
    emit(as_json, value, f"stopped {', '.join(item.url for item in stopped)}")


@command()
@settings(Workspace)
@click.option("--port", type=int, help="Port of the endpoint. [default: the only running one]")
@json_option
def restart(port: int | None, as_json: bool, **flags: Any) -> None:
    """Stop an endpoint and start it again with the same settings."""
    running = endpoints.restart(port, say=message, workspace=load(Workspace, flags).value)
    value = {"endpoints": [running.as_dict()]}
    emit(as_json, value, f"{running.url} is ready again, pid {running.pid}")


@command()
@settings(Workspace)
@click.option("--port", type=int, help="Port of the endpoint, running or stopped. [default: the only running one]")
@click.option("--lines", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Number of lines.")
@click.option("-f", "--follow", is_flag=True, help="Follow the log until Ctrl-C.")
@json_option
def logs(port: int | None, lines: int, follow: bool, as_json: bool, **flags: Any) -> None:
    """Show the log of all processes of a background endpoint."""
    workspace = load(Workspace, flags).value
    path = endpoints.find_log(port, workspace=workspace)
    if as_json:
        if follow:
            raise InputError("--follow cannot be combined with --json", hint="leave out --follow")
        with path.open(encoding="utf-8", errors="replace") as file:
            latest = [line.rstrip("\n") for line in deque(file, lines)]
        running = [item.as_dict() for item in endpoints.status(workspace=workspace) if Path(item.folder) == path.parent]
        emit(True, {"endpoints": running, "log": str(path), "lines": latest})
        return
    tail = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(path)]
    os.execvp(tail[0], tail)


@command()
@click.argument("url")
@json_option
def test(url: str, as_json: bool) -> None:
    """Run a smoke test of the endpoint at URL; FLEDGE_API_KEY is its key."""
    checks = check_endpoint(url, key=os.environ.get("FLEDGE_API_KEY"))
    passed = all(check.passed for check in checks)
    rows = [
        ["ok" if check.passed else "FAILED", check.name, f"{check.seconds:.3f} s", check.detail] for check in checks
    ]
    value = {"checks": [check.as_dict() for check in checks], "passed": passed}
    emit(as_json, value, table(url, ["", "check", "time", "answer"], rows))
    if not passed:
        raise FledgeError("the smoke test failed", hint="read the endpoint's log in .fledge/endpoints/")


@command()
@settings(Workspace)
@click.argument("request_id")
@click.option("--value", required=True, help="true, false, a number, or a word.")
@click.option("--name", default="feedback", show_default=True, help="Name of the assessment.")
@click.option("--comment", default="", help="Rationale.")
@click.option("--user", default="", help="Who gives the feedback.")
@click.option("--url", help="Endpoint that answered. [default: the only one running here]")
@json_option
def feedback(
    request_id: str, value: str, name: str, comment: str, user: str, url: str | None, as_json: bool, **flags: Any
) -> None:
    """Give feedback on the answer with this x-request-id; it is stored with the answer's trace."""
    parsed = _parse_value(value)
    identity = give_feedback(
        request_id,
        parsed,
        name=name,
        comment=comment,
        user=user,
        url=url,
        workspace=load(Workspace, flags).value,
    )
    document = {"request_id": request_id, "feedback_id": identity, "name": name, "value": parsed}
    emit(as_json, document, f"{name} = {value} for {request_id}")
    if not as_json:
        message("it will be an assessment of the answer's trace in MLflow")


@command()
@settings(Workspace)
@click.argument("url", required=False)
@json_option
def monitor(url: str | None, as_json: bool, **flags: Any) -> None:
    """Show request statistics of the endpoint at URL (default: the only one running here) from its outbox."""
    health = read_health(url, workspace=load(Workspace, flags).value)
    rows = [[name, value] for name, value in health.slo.as_dict().items()]
    emit(as_json, health.as_dict(), table(health.url, ["figure", "value"], rows))


def _parse_value(text: str) -> bool | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _status_lines(endpoint: EndpointStatus) -> Iterator[str]:
    """Yield the progress, last error, canary and recorder backlog of an endpoint."""
    if endpoint.progress:
        yield endpoint.progress[-1]
    if endpoint.last_error:
        yield f"its last error: {endpoint.last_error}"
    if endpoint.canary and endpoint.canary.status != "none":
        canary = endpoint.canary
        words = canary.reason or f"with {100 * canary.share:g} % of the requests"
        yield f"the canary {canary.release} is {canary.status} {words}"
    if endpoint.recorder and endpoint.recorder.waiting:
        last_error = endpoint.recorder.last_error
        yield f"{endpoint.recorder.waiting} records are not in MLflow yet{f': {last_error}' if last_error else ''}"


def _describe(endpoint: EndpointStatus) -> Iterator[str | Table]:
    releases = ", ".join(f"{release.name}/{release.version}" for release in endpoint.releases)
    yield f"{endpoint.url} is {endpoint.state}, with {releases}"
    rows = [
        [
            f"{part.role} {part.release}".strip(),
            part.pid,
            f"{part.memory_bytes / 1e6:.0f} MB",
            part.restarts,
        ]
        for part in endpoint.processes
    ]
    yield table("", ["process", "pid", "memory", "restarts"], rows)
    yield from _status_lines(endpoint)
