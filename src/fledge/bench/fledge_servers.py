"""fledge as the subject of `bench serve`: a release of the model in a workspace of its own, and its engine alone."""

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from fledge.bench.load_client import LoadTarget
from fledge.bench.measured_models import MeasuredModel
from fledge.bench.peers import Place
from fledge.bench.processes import module
from fledge.bench.servers import ServerCommand
from fledge.core import state
from fledge.core.settings import Workspace
from fledge.core.types import Say
from fledge.engines import selection
from fledge.engines.openvino_files import find_or_export
from fledge.engines.settings import EngineSettings
from fledge.experiments.config import ExperimentConfig
from fledge.models.snapshot import Snapshot
from fledge.registry.release import promote, register

RELEASE = "bench"
MODES: dict[str, Literal["fast", "exact"]] = {"fledge": "fast", "fledge-exact": "exact"}
ENGINES = {"fledge": "engine", "fledge-exact": "engine-exact"}


def engine_settings(settings: EngineSettings, subject: str) -> EngineSettings:
    """How a subject's engine is run: as set, in the subject's mode."""
    common = {item.name: getattr(settings, item.name) for item in fields(EngineSettings)}
    return EngineSettings(**{**common, "mode": MODES[subject]})


def export(settings: EngineSettings, subject: str, model: Snapshot, say: Say) -> None:
    """Make what a subject's engine needs once for a model, so that no measured process does."""
    if selection.choose(engine_settings(settings, subject), model).name == "openvino":
        find_or_export(model, settings.cache_dir / "engines", MODES[subject], say)


def release(settings: EngineSettings, model: Snapshot, folder: Path, say: Say) -> Workspace:
    """Register the model in a workspace of its own in `folder`, with what was exported of it, and promote it."""
    say("registering a release of the model for fledge to serve: about 30 s")
    own = state.ensure(folder / ".fledge")
    workspace = Workspace(f"sqlite:///{folder}/mlflow.db", str(own), settings.cache)
    asked = ExperimentConfig(
        model=str(model.path), tracking_uri=workspace.tracking_uri, state=workspace.state, cache=settings.cache
    )
    register(asked, name=RELEASE)
    promote(RELEASE, 1, force=True, reason="a benchmark", workspace=workspace)
    return workspace


def serve_command(settings: EngineSettings, subject: str, workspace: Workspace, place: Place) -> ServerCommand:
    """`fledge serve` of that release, as a user types it, in the foreground."""
    chosen = engine_settings(settings, subject)
    words = [sys.executable, "-m", "fledge", "serve", f"{RELEASE}@champion", "--port", str(place.port)]
    for name in ("engine", "device", "mode", "cache_gb"):
        words += [f"--{name.replace('_', '-')}", str(getattr(chosen, name))]
    environment = {"MLFLOW_TRACKING_URI": workspace.tracking_uri, "FLEDGE_HOME": workspace.state}
    return ServerCommand(
        words, environment, place.folder, place.target("chat" if place.chat else "completions", RELEASE)
    )


def engine_command(
    settings: EngineSettings, subject: str, model: MeasuredModel, plan: dict[str, Any], tokens: int
) -> list[str]:
    """The program that runs a subject's engine in process under the loads of `plan`."""
    chosen = asdict(engine_settings(settings, subject))
    content = {"settings": chosen, "model": str(model.snapshot.path), "chat": model.chat, "tokens": tokens}
    return module("in_process", {**plan, **content})


def asking_command(target: LoadTarget, plan: dict[str, Any]) -> list[str]:
    """The program that puts the loads of `plan` on a server."""
    return module("asking", {**plan, "target": target._asdict()})
