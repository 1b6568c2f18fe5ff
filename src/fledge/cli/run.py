"""`fledge run`."""

from typing import Any

import click

from fledge.cli.endpoints import serve_targets
from fledge.cli.options import command, settings
from fledge.cli.output import json_option, message
from fledge.core.settings import load, options
from fledge.engines.settings import EngineSettings
from fledge.experiments.config import ExperimentConfig
from fledge.registry.champion import ensure_champion
from fledge.registry.release import ReleaseConfig
from fledge.supervision import endpoints
from fledge.supervision.config import ServeConfig


@command()
@settings(ServeConfig, without=("split", "shadow", "canary", "steps", "hold", "guard"))
@click.argument("model")
@click.option("--name", help="Registered model. [default: named after the model] [env: MODEL_NAME]")
@click.option("--detach", is_flag=True, help="Run the endpoint in the background; return when it is ready.")
@json_option
def run(model: str, name: str | None, detach: bool, as_json: bool, **flags: Any) -> None:
    """Register MODEL, promote it by force and serve it, in one step.

    MODEL is embedded, smollm2, a folder, a GGUF file or a Hub id. If NAME@champion is already a release of it, that
    release is served.
    """
    config = load(ServeConfig, flags).value
    endpoints.check_start(config)
    own = {item.name: flags[item.name] for item in options(EngineSettings)}
    release = load(ReleaseConfig, {"name": name}).value
    chosen = ensure_champion(ExperimentConfig.load({**own, "model": model}), release, message)
    serve_targets(config, (f"{chosen}@champion",), detach, as_json, {"name": chosen})
