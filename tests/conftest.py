"""Fixtures: real stores and engines; what is slow to create is created once per session.

Hypothesis tries 100 examples for each test, and 10,000 with `pytest --hypothesis-profile soak`, which `make soak` uses
for serving.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fledge.core import state
from fledge.core.errors import DamagedError, FledgeError
from fledge.core.settings import Workspace, user_cache
from fledge.engines import selection
from fledge.engines.engine import Engine
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot
from fledge.models.smollm2 import WHEEL
from fledge.models.snapshot import Snapshot
from tests.models.instruct_model import write_instruct_model

Run = Callable[..., "subprocess.CompletedProcess[str]"]
PATIENCE_S = 120.0  # generous, so that no test depends on the speed of the machine

for name in [name for name in os.environ if name.startswith(("FLEDGE_", "MLFLOW_"))]:
    if not name.startswith("FLEDGE_TEST_"):  # settings of the tests
        del os.environ[name]
for name in ("MODEL_NAME", "EXPERIMENT_NAME"):
    os.environ.pop(name, None)


settings.register_profile("soak", max_examples=10_000, deadline=None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a cache for this session, shared by its processes, with a link to the downloaded wheel."""
    downloaded = user_cache() / "wheels" / WHEEL
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        if downloaded.is_file():
            wheels = state.ensure(user_cache() / "wheels")
            with contextlib.suppress(FileExistsError):
                (wheels / WHEEL).symlink_to(downloaded)
        yield


@pytest.fixture(autouse=True)
def _own_mlflow_environment() -> Iterator[None]:
    """Restore the environment variables in which MLflow saves a test's store and experiment."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of exported models, shared by all processes of the session."""
    folder = Workspace().cache_dir / "engines"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def embedded_engine(engine_cache: Path) -> Iterator[Engine]:
    """Return the embedded model on the default engine of this machine."""
    settings = EngineSettings()
    engine = selection.start(settings, snapshot.resolve("embedded"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def smollm2() -> Snapshot:
    """Return a real chat model, SmolLM2-135M-Instruct; skips the test if it cannot be fetched."""
    try:
        return snapshot.resolve("smollm2")
    except DamagedError:
        raise
    except FledgeError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def instruct_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model that answers only questions in its chat template."""
    return write_instruct_model(tmp_path_factory.mktemp("models") / "instruct")


@pytest.fixture(scope="session")
def instruct_engine(instruct_model: Path, engine_cache: Path) -> Iterator[Engine]:
    """Return the instruct model on the default engine of this machine."""
    engine = selection.start(EngineSettings(), snapshot.resolve(str(instruct_model)))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of an empty SQLite tracking store."""
    from fledge.tracking._mlflow_connection import connect

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def workspace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Change to an empty working directory with an empty store; returns their workspace."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / ".fledge").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    return Workspace(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / ".fledge"))


@pytest.fixture
def port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def fledge() -> Run:
    """Return a function that runs the command line in its own process."""

    def run(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "fledge", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        options = {"env": clean, **options}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the paths of a certificate for this machine and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key
