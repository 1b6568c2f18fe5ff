"""`fledge ui`."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import click
import httpx

from fledge.cli.options import command, settings
from fledge.cli.output import emit, json_option, message
from fledge.core.errors import FledgeError, InputError
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.network import listen, without_password
from fledge.core.settings import Workspace, load

START_TIMEOUT_S = 120.0


@command()
@settings(Workspace)
@click.option("--port", type=click.IntRange(1, 65535), default=5050, show_default=True, help="Port to listen on.")
@json_option
def ui(port: int, as_json: bool, **flags: Any) -> None:
    """Serve MLflow's UI on the tracking store, on loopback, until Ctrl-C."""
    uri = load(Workspace, flags).value.tracking
    if uri.startswith("http"):
        raise InputError(f"{uri} serves its own UI", hint=f"open {uri}")
    url = f"http://127.0.0.1:{port}"
    listen("127.0.0.1", port).close()
    message(f"starting MLflow's UI on {without_password(uri)}, about 20 s")
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # The store's URI may contain a password, and other users can read command lines.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    # A new session, so that the server's workers end with it.
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        _wait_until_ready(server, url)
        emit(as_json, {"url": url, "pid": server.pid}, f"{url} is ready; Ctrl-C stops it")
        sys.stdout.flush()
        raise FledgeError(f"MLflow's server has exited: {_read_error(server)}", hint="fledge ui")
    finally:
        if server.poll() is None:
            with shield_from_interrupts():
                _end(server)


def _end(server: "subprocess.Popen[str]") -> None:
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def _wait_until_ready(server: "subprocess.Popen[str]", url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        if _is_ready(url):
            return
        time.sleep(0.3)
    if server.poll() is None:
        raise FledgeError(f"MLflow's server did not answer within {START_TIMEOUT_S:g} s")
    raise FledgeError(f"MLflow's server did not start: {_read_error(server)}", hint="fledge doctor")


def _read_error(server: "subprocess.Popen[str]") -> str:
    lines = server.communicate()[1].strip().splitlines()
    return lines[-1] if lines else f"exit code {server.returncode}"


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False
