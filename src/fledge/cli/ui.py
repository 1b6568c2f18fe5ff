"""`fledge ui`."""

import os
import subprocess
import sys
from typing import Any

import click

from fledge.cli.options import settings
from fledge.cli.output import message
from fledge.core.errors import InputError
from fledge.core.settings import Workspace, load


@click.command()
@settings(Workspace)
@click.option("--port", type=click.IntRange(1, 65535), default=5050, show_default=True, help="Port to listen on.")
def ui(port: int, **flags: Any) -> None:
    """Serve MLflow's UI on the tracking store, on loopback, with one worker. Ctrl-C stops it."""
    uri = load(Workspace, flags).value.tracking
    if uri.startswith("http"):
        raise InputError(f"{uri} has a UI of its own", hint=f"open {uri}")
    message(f"MLflow's UI on {uri}: http://127.0.0.1:{port} (about 20 s until it answers; Ctrl-C stops it)")
    command = ["server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    sys.exit(subprocess.run([sys.executable, "-m", "mlflow", *command], env=environment, check=False).returncode)
