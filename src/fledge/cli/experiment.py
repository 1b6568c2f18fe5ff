"""`fledge experiment`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from fledge.cli.options import command, settings
from fledge.cli.output import cells_progress, emit, json_option, message, table
from fledge.core.errors import InputError
from fledge.core.settings import Workspace, load, options
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run_ids import short_id
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    from fledge.experiments.result import ExperimentResult

# The name of an answer's metric in the figures of an arm.
MEANS = {"latency_s": "latency_mean_s", "ttft_s": "ttft_mean_s", "error_rate": "success_rate"}


@command()
@settings(ExperimentConfig)
@click.option("--config", type=click.Path(path_type=Path), help="TOML or YAML file with settings and arms.")
@click.option("--like", metavar="RUN", help="Repeat an experiment with its settings; flags override them.")
@click.option(
    "--resume",
    metavar="RUN",
    help="Resume an unfinished experiment (or last); finished answers are kept.",
)
@json_option
def experiment(config: Path | None, like: str | None, resume: str | None, as_json: bool, **flags: Any) -> None:
    """Ask all questions with all prompts; log runs, traces, tables and a plot to MLflow."""
    from fledge.experiments.run import resume_experiment, run_experiment

    if resume is not None:
        workspace = _load_workspace(flags, config, like)
        with cells_progress("asking") as progress:
            result = resume_experiment(resume, progress=progress, say=message, workspace=workspace)
    else:
        configured = _load_config(flags, config, like)
        with cells_progress("asking", configured.generation.max_tokens) as progress:
            result = run_experiment(configured, progress=progress, say=message)
    emit(as_json, result.as_dict(), _build_table(result))
    for warning in result.warnings:
        message(f"warning: {warning.text}")
    if result.failed:
        again = f"fledge experiment --resume {short_id(result.run_id)}"
        message(f"{result.failed} answers failed; retry those that may pass with: {again}")
    if not as_json and len(result.arms) > 1:
        metric = "" if result.metric else " --metric METRIC, or --judge URL#NAME, as there are no references"
        message(f"next: fledge compare {short_id(result.run_id)}{metric}")


def _load_config(flags: dict[str, Any], file: Path | None, like: str | None) -> ExperimentConfig:
    if like is None:
        return _check_flags(ExperimentConfig.load(flags, file=file), flags)
    if file is not None:
        raise InputError("--config cannot be combined with --like", hint="leave out one of them")
    from fledge.experiments._mlflow_experiments import describe_arms, load_plan, load_settings
    from fledge.experiments._mlflow_runs import COMPARED, find_run

    given = {name: value for name, value in flags.items() if value is not None}
    client = connect(load(Workspace, flags).value.tracking)
    run_id = find_run(client, like, COMPARED)
    settings = load_settings(client, run_id)
    prompted = [arm.name for arm in describe_arms(client, run_id)]
    chains = [name for name in (load_plan(client, run_id) or {}).get("arms", ()) if name not in prompted]
    if chains:
        message(f"{', '.join(chains)} left out: custom chains are repeated from Python only")
    return _check_flags(ExperimentConfig.load({**settings, **given}), flags)


def _check_flags(config: ExperimentConfig, flags: dict[str, Any]) -> ExperimentConfig:
    """Return `config`. Raise `InputError` for flags that cannot be combined with arms."""
    conflicts = [f"--{name.replace('_', '-')}" for name in ("prompts", "more_models") if flags.get(name) is not None]
    if config.arms and conflicts:
        raise InputError(f"{', '.join(conflicts)} cannot be combined with arms", hint="add an arm instead")
    return config


def _load_workspace(flags: dict[str, Any], file: Path | None, like: str | None) -> Workspace:
    own = {item.name for item in options(Workspace)}
    names = {item.name: item.flag for item in options(ExperimentConfig)}
    others = [names[name] for name, value in flags.items() if value is not None and name not in own]
    others += ["--config"] * (file is not None) + ["--like"] * (like is not None)
    if others:
        raise InputError(
            f"--resume cannot be combined with {', '.join(others)}: it keeps the experiment's settings",
            hint="--like RUN starts a new experiment with other settings",
        )
    return load(Workspace, flags).value


def _build_table(result: "ExperimentResult") -> Table:
    failed = ("success_rate",) if result.failed else ()
    metric = MEANS.get(result.metric, result.metric)
    names = dict.fromkeys((metric, "token_f1", "exact_match", "judge", *failed, "latency_mean_s"))
    shown = [name for name in names if any(name in arm.metrics for arm in result.arms)]
    rows = [[arm.name, arm.prompt, *(arm.metrics.get(name) for name in shown)] for arm in result.arms]
    return table(f"run {result.run_id}", ["arm", "prompt", *shown], rows)
