"""`fledge evaluate`."""

from pathlib import Path
from typing import Any, get_args

import click

from fledge.cli.options import command, settings
from fledge.cli.output import cells_progress, emit, json_option, message, table
from fledge.comparison.gates import GateOn
from fledge.core.errors import RefusedError
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.evaluation import evaluate as evaluate_target
from fledge.experiments.evaluation import write_junit
from fledge.experiments.run_ids import short_id


@command()
@click.argument("target")
@settings(
    ExperimentConfig, without=("model", "more_models", "prompts", "shots", "shots_from", "metric", "margin", "alpha")
)
@click.option("--prompt", help="Prompt: name, name/version or name@alias. [default: the release's own]")
@click.option("--gate", "gates", multiple=True, help='Condition to pass, such as "token_f1>=0.6, error_rate<=0.01".')
@click.option(
    "--gate-on",
    type=click.Choice(get_args(GateOn)),
    default="bound",
    show_default=True,
    help="Judge gates on the worse bound of the 95 % interval, or on the mean.",
)
@click.option(
    "--reuse/--no-reuse",
    default=True,
    help="Reuse answers of earlier experiments with the same prompt, model, settings and seed; off if a gate is on "
    "latency.  [default: reuse]",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit file for CI.")
@json_option
def evaluate(
    target: str,
    prompt: str | None,
    gates: tuple[str, ...],
    gate_on: GateOn,
    reuse: bool,
    junit: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Score TARGET (a model, a release as NAME@ALIAS, or a URL) on all questions."""
    with cells_progress("asking") as progress:
        found = evaluate_target(
            target, gates, prompt=prompt, gate_on=gate_on, settings=flags, progress=progress, say=message, reuse=reuse
        )
    if junit is not None:
        write_junit(found, junit)
    rows = [[name, value, *found.intervals[name]] for name, value in found.metrics.items()]
    shown = table(f"{found.questions} questions", ["metric", "mean", "from", "to"], rows)
    emit(as_json, found.as_dict(), shown, *found.summary(), f"run {found.run_id}")
    for warning in found.warnings:
        message(f"warning: {warning.text}")
    if found.failed:
        again = f"fledge experiment --resume {short_id(found.run_id)}"
        message(f"{found.failed} answers failed; retry those that may pass with: {again}")
    failed = [gate.gate for gate in found.gates if not gate.passed]
    if failed:
        hint = "ask more questions, or judge by the mean alone: --gate-on mean" if gate_on == "bound" else ""
        raise RefusedError(f"{len(failed)} of {len(found.gates)} gates failed: {', '.join(failed)}", hint=hint)
