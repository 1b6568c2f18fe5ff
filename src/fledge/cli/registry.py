"""`fledge register`, `fledge verify`, `fledge promote`, `fledge rollback`, `fledge history`."""

import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from fledge.cli.options import command, settings
from fledge.cli.output import emit, json_option, message, table
from fledge.core.settings import Workspace, load
from fledge.engines.settings import EngineSettings
from fledge.experiments.config import ExperimentConfig
from fledge.registry import release as releases
from fledge.registry.moves import AliasMove
from fledge.registry.release import ReleaseConfig
from fledge.releases.manifest import Weights

NOT_OF_A_RELEASE = (
    *(item.name for item in fields(EngineSettings)),
    *("prompts", "questions", "shots", "shots_from", "limit", "samples", "concurrency", "order_seed"),
)


@command()
@settings(ReleaseConfig)
@settings(ExperimentConfig, without=NOT_OF_A_RELEASE)
@click.option(
    "--run",
    "run_id",
    help="Compared experiment (or last) whose winner's prompt to use; its leader's if there is no winner.",
)
@click.option("--prompt", help="The prompt of the release: name, name/version or name@alias.")
@click.option("--arm", help="Arm of --run to use instead of its winner.")
@click.option(
    "--weights",
    type=click.Choice(["copy", "reference"]),
    default="copy",
    show_default=True,
    help="Store the model's files, or only its Hub id and commit.",
)
@click.option(
    "--sign-key", type=click.Path(path_type=Path), help="Private key (PEM, elliptic curve) to sign the release with."
)
@json_option
def register(
    run_id: str | None,
    prompt: str | None,
    arm: str | None,
    weights: Weights,
    sign_key: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Register a release: model files, exported engines, one prompt version, and a manifest of digests.

    The same content is registered only once. Aliases do not move.
    """
    own = load(ReleaseConfig, {name: flags.pop(name) for name in ("name", "engines")}).value
    result = releases.register(
        ExperimentConfig.load(flags),
        name=own.name,
        run_id=run_id,
        arm=arm,
        prompt=prompt,
        engines=own.engines,
        weights=weights,
        sign_key=sign_key,
        say=message,
    )
    known = "" if result.new else ", already registered with the same content"
    known += " and not signed again" if sign_key and not result.new else ""
    lines = [result.arm.summary()] if result.arm else []
    emit(as_json, asdict(result), f"{result.name} version {result.version}{known}", *lines)
    if not as_json:
        promote = f"next: fledge promote {result.name} {result.version}"
        if result.arm and result.arm.proven:
            message(f"{promote} --evidence {run_id}")
        else:
            message(f'{promote} --force --reason "...", or --evidence RUN of a won comparison or passed gates')


@command()
@settings(Workspace)
@click.argument("target")
@click.option("--key", type=click.Path(path_type=Path), help="Public key (PEM) to check the signature with.")
@json_option
def verify(target: str, key: Path | None, as_json: bool, **flags: Any) -> None:
    """Check the stored files of a release (NAME@ALIAS or models:/NAME/VERSION) against its manifest."""
    found = releases.verify(target, key=key, workspace=load(Workspace, flags).value)
    signature = (
        "signature valid" if found.signature_checked else "signed, not checked" if found.signed else "not signed"
    )
    emit(
        as_json,
        found._asdict(),
        f"{found.name} version {found.version}: {found.files} files are unchanged; {signature}",
    )
    if found.signed and key is None and not as_json:
        message("next: --key PUBLIC.pem checks the signature")


@command()
@settings(Workspace)
@click.argument("name")
@click.argument("version", type=int)
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@click.option(
    "--evidence", help="Run (or last) of a comparison that it won, or of an evaluation whose gates it passed."
)
@click.option("--force", is_flag=True, help="Promote without evidence; needs --reason.")
@click.option("--reason", default="", help="Why, for the history.")
@click.option("--expected", type=int, help="Only if the alias is still at this version; 0 for none.")
@json_option
def promote(
    name: str,
    version: int,
    alias: str,
    evidence: str | None,
    force: bool,
    reason: str,
    expected: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Move an alias of NAME to VERSION if the evidence shows that it is better."""
    workspace = load(Workspace, flags).value
    move = releases.promote(
        name,
        version,
        alias=alias,
        evidence=evidence,
        force=force,
        reason=reason,
        expected=expected,
        say=message,
        workspace=workspace,
    )
    _show(move, as_json)
    if not as_json:
        message(f"next: fledge serve {name}@{alias}")


@command()
@settings(Workspace)
@click.argument("name")
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@click.option("--reason", default="", help="Why, for the history.")
@json_option
def rollback(name: str, alias: str, reason: str, as_json: bool, **flags: Any) -> None:
    """Undo the last promotion of an alias of NAME; repeat to undo earlier ones."""
    _show(
        releases.rollback(name, alias=alias, reason=reason, say=message, workspace=load(Workspace, flags).value),
        as_json,
    )


@command()
@settings(Workspace)
@click.argument("name")
@json_option
def history(name: str, as_json: bool, **flags: Any) -> None:
    """Show who moved which alias of NAME, when and why; newest first."""
    moves = releases.history(name, say=message, workspace=load(Workspace, flags).value)
    columns = ["time", "who", "action", "alias", "from", "to", "forced", "reason"]
    shown = [move.as_dict() for move in moves]
    rows = [[_format_time(move["time"]), *(move[column] for column in columns[1:])] for move in shown]
    emit(as_json, shown, table(name, columns, rows))


def _show(move: AliasMove, as_json: bool) -> None:
    names = ("name", "alias", "from", "to", "prompts")
    moved = f"{move.before or 'none'} -> {move.after}" if move.before != move.after else f"{move.after} already"
    lines = [f"{move.name}@{move.alias}: {moved}"]
    lines += [
        f"prompt {change.name}@{move.alias}: {change.before or 'none'} -> {change.after or 'none'}"
        for change in move.changes[:-1]
        if change.before != change.after
    ]
    emit(as_json, {name: move.as_dict()[name] for name in names}, *lines)


def _format_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
