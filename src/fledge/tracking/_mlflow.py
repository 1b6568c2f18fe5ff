"""Connecting to MLflow: one place that sets the store, keeps MLflow quiet, and finds or makes experiments."""

import contextlib
import logging
import os
import re
import tempfile
import warnings
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

# MLflow reads these when it is imported or first used.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fledge.core import state
from fledge.core.errors import FledgeError, InputError

SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")


def connect(uri: str) -> MlflowClient:
    """Use the tracking store `uri` from here on; a missing SQLite file is created with its tables.

    Raises `InputError` for a kind of store that MLflow no longer keeps, `FledgeError` if it does not answer.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in (*SQL_SCHEMES, "http", "https"):
        raise InputError(
            f"tracking store {uri!r}: only SQL stores and http(s) servers are supported",
            hint="export MLFLOW_TRACKING_URI=sqlite:///mlflow.db",
        )
    _quiet()
    if scheme == "sqlite":
        file = _sqlite_file(uri)
        state.check_writable(file.parent)
        if not file.exists():
            _create(file)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return _client(uri)


@cache
def _client(uri: str) -> MlflowClient:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise FledgeError(
            f"the tracking store {_without_password(uri)} does not answer: {str(error).splitlines()[0]}",
            hint="check MLFLOW_TRACKING_URI, or start a server with: fledge ui",
        ) from None
    return client


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of the experiment `name`, made if missing; artifacts of a SQLite store go to `mlartifacts` beside it."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            raise FledgeError(
                f"the experiment {name!r} is deleted in MLflow",
                hint=f"mlflow experiments restore --experiment-id {found.experiment_id}",
            )
        return str(found.experiment_id)
    uri = str(client.tracking_uri)
    location = None
    if uri.startswith("sqlite"):
        folder = re.sub(r"[^\w-]+", "_", name)
        location = (_sqlite_file(uri).parent / "mlartifacts" / folder).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _create(file: Path) -> None:
    """Make the tables in a file aside and put it in place whole: an interrupted or parallel first start is harmless."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        working = Path(folder) / file.name
        MlflowClient(tracking_uri=f"sqlite:///{working}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):
            os.link(working, file)


def _sqlite_file(uri: str) -> Path:
    path = uri.partition(":///")[2]
    return Path(path).absolute()


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.password:
        return uri.replace(f":{parts.password}@", ":***@")
    return uri


def _quiet() -> None:
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
