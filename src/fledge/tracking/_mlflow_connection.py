"""Connect to MLflow: set the store, silence MLflow's logs, and find or create experiments."""

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
# Callers that can wait retry themselves, so MLflow must not block a thread for minutes.
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

log = logging.getLogger(__name__)

FIRST_ANSWER_S = 10
SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")


def connect(uri: str) -> MlflowClient:
    """Set the tracking store of the process and return its client; a missing SQLite file is created with its tables.

    Raises `InputError` for an unsupported store, `FledgeError` if it cannot be reached.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in (*SQL_SCHEMES, "http", "https"):
        raise InputError(
            f"tracking store {without_password(uri)!r}: only SQL stores and http(s) servers are supported",
            hint="export MLFLOW_TRACKING_URI=sqlite:///mlflow.db",
        )
    if scheme == "sqlite" and uri.partition(":///")[2] in ("", ":memory:"):
        hint = "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        raise InputError(f"tracking store {uri!r} is not a file: it would be lost when the command ends", hint=hint)
    _silence_mlflow()
    if scheme == "sqlite":
        file = _sqlite_file(uri)
        state.check_writable(file.parent)
        if not file.exists():
            _create_sqlite_file(file)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return _open_client(uri)


@cache
def _open_client(uri: str) -> MlflowClient:
    if not uri.startswith("http"):
        _check_database(uri)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        with _fail_fast():
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise unreachable(uri, error) from None
    log.debug("connected to %s, MLflow %s", without_password(uri), mlflow.__version__)
    return client


@contextlib.contextmanager
def run_within(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[RunInfo]:
    """Create a run in the experiment with this id, and end it with the block, with the status of its outcome."""
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
    """Return the status of a run that ended with `error`."""
    return "KILLED" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "FAILED"


def unreachable(uri: str, error: MlflowException) -> FledgeError:
    """Return the error for a tracking server that failed to respond properly."""
    reason, hint = _explain_http_error(str(error))
    return FledgeError(f"the tracking server at {without_password(uri)} cannot be reached: {reason}", hint=hint)


def _check_database(uri: str) -> None:
    """Raise `FledgeError` if the database cannot be opened; MLflow itself would retry silently for minutes."""
    try:
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        hint = "check MLFLOW_TRACKING_URI, and that the database is running"
        raise FledgeError(f"the tracking store {without_password(uri)} cannot be opened: {reason}", hint=hint) from None


@contextlib.contextmanager
def _fail_fast() -> Iterator[None]:
    """Disable retries and shorten the timeout, to report a wrong address immediately."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(FIRST_ANSWER_S)}
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value


def _explain_http_error(text: str) -> tuple[str, str]:
    """Return the reason of an error of MLflow's HTTP client, and a hint."""
    status = re.search(r"error code (\d{3})|too many (\d{3}) error", text)
    number = (status[1] or status[2]) if status else ""
    if number in ("401", "403"):
        hint = "export MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=... (or MLFLOW_TRACKING_TOKEN)"
        return f"it requires a user name and password ({number})", hint
    if number:
        return f"it returns error {number}", "see the server log; check MLFLOW_TRACKING_URI"
    if "timed out" in text:
        return f"no answer in {FIRST_ANSWER_S} s", "check MLFLOW_TRACKING_URI, and that the server is responsive"
    if "NewConnectionError" in text or "NameResolutionError" in text:
        return "nothing listens there", "check MLFLOW_TRACKING_URI, or start a server with: fledge ui"
    return text.splitlines()[0], "check MLFLOW_TRACKING_URI, or start a server with: fledge ui"


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment `name`, created if missing.

    A SQLite store keeps artifacts in `mlartifacts` next to the file.
    """
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
        return experiment_id(client, name)  # created by another process meanwhile


def _create_sqlite_file(file: Path) -> None:
    """Create the tables in a temporary file and link it into place, so that interrupted or parallel starts are safe."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        working = Path(folder) / file.name
        MlflowClient(tracking_uri=f"sqlite:///{working}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):
            os.link(working, file)


def _sqlite_file(uri: str) -> Path:
    path = uri.partition(":///")[2]
    return Path(path).absolute()


def _silence_mlflow() -> None:
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
    warnings.filterwarnings("ignore", message="Glyph .* missing")  # in plots
