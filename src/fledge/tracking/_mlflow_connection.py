"""Connecting to MLflow: one place that sets the store, keeps MLflow quiet, and finds or makes experiments."""

import contextlib
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

# MLflow reads these when it is imported or first used.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# Whoever can wait for a server tries again by itself, so that MLflow need not hold a thread for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import RunInfo
from mlflow.exceptions import MlflowException

from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.interrupts import postpone_interrupts, shield_from_interrupts
from fledge.core.network import without_password

FIRST_ANSWER_S = 10
SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")


def connect(uri: str) -> MlflowClient:
    """Use the tracking store `uri` from here on; a missing SQLite file is created with its tables.

    Raises `InputError` for a kind of store that MLflow no longer keeps, `FledgeError` if it cannot be reached.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in (*SQL_SCHEMES, "http", "https"):
        raise InputError(
            f"tracking store {without_password(uri)!r}: only SQL stores and http(s) servers are supported",
            hint="export MLFLOW_TRACKING_URI=sqlite:///mlflow.db",
        )
    if scheme == "sqlite" and uri.partition(":///")[2] in ("", ":memory:"):
        hint = "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        raise InputError(f"tracking store {uri!r} is no file: it would be gone with the command", hint=hint)
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
    if not uri.startswith("http"):
        _look_at_database(uri)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        with _impatient():
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise unreachable(uri, error) from None
    return client


@contextlib.contextmanager
def run_within(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[RunInfo]:
    """A new run of the experiment with that id, which ends with the block, however that is left."""
    run: RunInfo | None = None
    status = "FINISHED"
    try:
        with postpone_interrupts():
            run = client.create_run(experiment, run_name=name, tags=dict(tags)).info
        yield run
    except BaseException as error:
        status = status_after(error)
        raise
    finally:
        if run is not None:
            with shield_from_interrupts(), contextlib.suppress(MlflowException):  # the store may be what failed
                client.set_terminated(run.run_id, status)


def status_after(error: BaseException) -> str:
    """How a run ends that `error` has ended."""
    return "KILLED" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "FAILED"


def unreachable(uri: str, error: MlflowException) -> FledgeError:
    """What to tell a user of a tracking server that did not answer as it should."""
    reason, hint = _explained(str(error))
    return FledgeError(f"the tracking server at {without_password(uri)} cannot be reached: {reason}", hint=hint)


def _look_at_database(uri: str) -> None:
    """MLflow itself tries for minutes, in silence."""
    try:
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        hint = "check MLFLOW_TRACKING_URI, and that the database is up"
        raise FledgeError(f"the tracking store {without_password(uri)} cannot be opened: {reason}", hint=hint) from None


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """One try, and not long: whoever has just typed an address wants to know that it is wrong."""
    hasty = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(FIRST_ANSWER_S)}
    before = {name: os.environ.get(name) for name in hasty}
    os.environ.update(hasty)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value


def _explained(text: str) -> tuple[str, str]:
    """What an error of MLflow's HTTP client means, and what to do."""
    status = re.search(r"error code (\d{3})|too many (\d{3}) error", text)
    number = (status[1] or status[2]) if status else ""
    if number in ("401", "403"):
        hint = "export MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=... (or MLFLOW_TRACKING_TOKEN)"
        return f"it wants a user and a password ({number})", hint
    if number:
        return f"it answers with error {number}", "see the log of the server; check MLFLOW_TRACKING_URI"
    if "timed out" in text:
        return f"no answer in {FIRST_ANSWER_S} s", "check MLFLOW_TRACKING_URI, and that the server is well"
    if "NewConnectionError" in text or "NameResolutionError" in text:
        return "nothing listens there", "check MLFLOW_TRACKING_URI, or start a server with: fledge ui"
    return text.splitlines()[0], "check MLFLOW_TRACKING_URI, or start a server with: fledge ui"


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
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return experiment_id(client, name)  # somebody else was faster


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


def _quiet() -> None:
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
    warnings.filterwarnings("ignore", message="Glyph .* missing")  # in the plots that it draws for us
