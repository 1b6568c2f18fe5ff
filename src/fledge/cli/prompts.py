"""`fledge prompts`."""

from pathlib import Path
from typing import Any

import click

from fledge.cli.options import settings
from fledge.cli.output import emit, json_option, table
from fledge.core.errors import InputError
from fledge.core.settings import Workspace, load


@click.group()
def prompts() -> None:
    """The prompt registry: MLflow's."""


@prompts.command("list")
@settings(Workspace)
@json_option
def list_(as_json: bool, **flags: Any) -> None:
    """Show the newest version of every prompt."""
    from fledge.prompts._mlflow import list_prompts

    found = list_prompts(_connect(flags))
    rows = [[prompt.name, prompt.version, ", ".join(prompt.aliases), prompt.template] for prompt in found]
    value = [_as_dict(prompt) for prompt in found]
    emit(
        as_json,
        value,
        table("prompts", ["name", "version", "aliases", "template"], rows),
    )


@prompts.command()
@settings(Workspace)
@click.argument("name")
@json_option
def show(name: str, as_json: bool, **flags: Any) -> None:
    """Show one version of a prompt: NAME, NAME/3 or NAME@alias."""
    from fledge.prompts._mlflow import load_prompt

    found = load_prompt(_connect(flags), name)
    emit(as_json, _as_dict(found), found.template)


@prompts.command()
@settings(Workspace)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def register(name: str, file: Path, as_json: bool, **flags: Any) -> None:
    """Register the text of FILE as the newest version of NAME; an unchanged text makes no new version."""
    try:
        template = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}", hint="name a text file in UTF-8") from None
    from fledge.prompts._mlflow import register_prompt

    found = register_prompt(_connect(flags), name, template)
    emit(as_json, _as_dict(found), found.label)


def _connect(flags: dict[str, Any]) -> Any:
    from fledge.tracking._mlflow import connect

    return connect(load(Workspace, flags).value.tracking)


def _as_dict(prompt: Any) -> dict[str, Any]:
    return {
        "name": prompt.name,
        "version": prompt.version,
        "uri": prompt.uri,
        "aliases": list(prompt.aliases),
        "template": prompt.template,
    }
