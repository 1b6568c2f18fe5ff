"""`fledge config`."""

from pathlib import Path

import click

from fledge.cli.output import emit, json_option, table
from fledge.conversation.session import ChatConfig
from fledge.core.settings import load, options
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import ReleaseConfig
from fledge.supervision.endpoints import ServeConfig


@click.group()
def config() -> None:
    """Settings: flags, environment, .env, fledge.toml, user file, defaults."""


@config.command()
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@json_option
def show(origin: bool, as_json: bool) -> None:
    """Show the settings that commands would use here."""
    rows: dict[str, dict[str, object]] = {}
    for cls in (ExperimentConfig, ReleaseConfig, ServeConfig, ChatConfig):
        resolved = load(cls)
        for item in options(cls):
            value = getattr(resolved.value, item.name, None)
            if value is None:
                value = getattr(getattr(resolved.value, "generation", None), item.name, None)
            rows[item.name] = {
                "name": item.name,
                "value": value,
                "origin": resolved.origins[item.name],
                "env": item.env,
            }
    columns = ["name", "value", "origin", "env"] if origin else ["name", "value"]
    shown = [[row[column] if column != "value" else str(row[column]) for column in columns] for row in rows.values()]
    emit(as_json, list(rows.values()), table(str(Path.cwd()), columns, shown))
