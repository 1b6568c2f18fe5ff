"""fledge in `bench serve`: a release of the model in its own workspace, and its engine alone."""

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
    """Return the settings with the subject's mode."""
    common = {item.name: getattr(settings, item.name) for item in fields(EngineSettings)}
    return EngineSettings(**{**common, "mode": MODES[subject]})


def export(settings: EngineSettings, subject: str, model: Snapshot, say: Say) -> None:
    """Export the model for a subject's engine if needed, outside of the measured processes."""
    if selection.choose(engine_settings(settings, subject), model).name == "openvino":
        find_or_export(model, settings.cache_dir / "engines", MODES[subject], say)


def release(settings: EngineSettings, model: Snapshot, folder: Path, say: Say) -> Workspace:
    """Register and promote the model, with its exports, in a workspace of its own in `folder`."""
    say("registering a release of the model for fledge to serve: about 30 s")
    own = state.ensure(folder / ".fledge")
    workspace = Workspace(f"sqlite:///{folder}/mlflow.db", str(own), settings.cache)
    experiment = ExperimentConfig(
        model=str(model.path), tracking_uri=workspace.tracking_uri, state=workspace.state, cache=settings.cache
    )
    register(experiment, name=RELEASE)
    promote(RELEASE, 1, force=True, reason="a benchmark", workspace=workspace)
    return workspace


def serve_command(settings: EngineSettings, subject: str, workspace: Workspace, place: Place) -> ServerCommand:
    """Return the command that serves the release in the foreground, as a user would type it."""
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
    """Return the command that puts the loads of `plan` on a subject's engine in process."""
    chosen = asdict(engine_settings(settings, subject))
    content = {"settings": chosen, "model": str(model.snapshot.path), "chat": model.chat, "tokens": tokens}
    return module("in_process", {**plan, **content})


def load_command(target: LoadTarget, plan: dict[str, Any]) -> list[str]:
    """Return the command that puts the loads of `plan` on a server."""
    return module("load_client", {**plan, "target": target._asdict()})
