"""`fledge register`, `fledge promote`, `fledge history`."""

import time
from dataclasses import asdict, fields
from typing import Any

import click

from fledge.cli.options import settings
from fledge.cli.output import emit, json_option, message, table
from fledge.core.settings import Workspace, load
from fledge.experiments.config import ExperimentConfig
from fledge.models.selection import EngineSettings
from fledge.registry import release as releases
from fledge.registry.release import ReleaseConfig

NOT_OF_A_RELEASE = (
    *(item.name for item in fields(EngineSettings)),
    *("prompts", "questions", "limit", "samples", "concurrency", "order_seed"),
)


@click.command()
@settings(ReleaseConfig)
@settings(ExperimentConfig, without=NOT_OF_A_RELEASE)
@click.option(
    "--run", "run_id", help="An experiment that was compared; its winner's prompt is taken, else its leader's."
)
@click.option("--prompt", help="The prompt of the release: name, name/version or name@alias.")
@json_option
def register(run_id: str | None, prompt: str | None, as_json: bool, **flags: Any) -> None:
    """Register a release: model files, one prompt version, and a manifest of digests. No alias moves."""
    name = load(ReleaseConfig, {"name": flags.pop("name")}).value.name
    result = releases.register(ExperimentConfig.load(flags), name=name, run_id=run_id, prompt=prompt)
    emit(as_json, asdict(result), f"{result.name} version {result.version}")
    if not as_json:
        message(f"next: fledge promote {result.name} {result.version}")


@click.command()
@settings(Workspace)
@click.argument("name")
@click.argument("version", type=int)
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@click.option("--evidence", help="The run of a comparison that the release's prompt has won.")
@click.option("--force", is_flag=True, help="Without evidence; needs --reason.")
@click.option("--reason", default="", help="Why, for the history.")
@json_option
def promote(
    name: str, version: int, alias: str, evidence: str | None, force: bool, reason: str, as_json: bool, **flags: Any
) -> None:
    """Move an alias of NAME to VERSION if the evidence says that it is better."""
    workspace = load(Workspace, flags).value
    move = releases.promote(workspace, name, version, alias=alias, evidence=evidence, force=force, reason=reason)
    before = "none" if move.from_version is None else move.from_version
    emit(as_json, move.as_dict(), f"{name}@{alias}: {before} -> {move.to_version}")
    if not as_json:
        message(f"next: fledge serve {name}@{alias}")


@click.command()
@settings(Workspace)
@click.argument("name")
@json_option
def history(name: str, as_json: bool, **flags: Any) -> None:
    """Who moved which alias of NAME, when and why; newest first."""
    moves = releases.history(load(Workspace, flags).value, name)
    columns = ["time", "who", "alias", "from", "to", "forced", "reason"]
    rows = [[_when(move["time"]), *(move[column] for column in columns[1:])] for move in moves]
    emit(as_json, moves, table(name, columns, rows))


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
