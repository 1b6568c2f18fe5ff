"""`fledge experiment` and `fledge compare`."""

from typing import Any

import click
from rich.table import Table

from fledge.cli.options import settings
from fledge.cli.output import cells_progress, emit, json_option, message, table
from fledge.comparison.verdict import Comparison
from fledge.core.settings import Workspace, load
from fledge.experiments.comparison import CompareOptions
from fledge.experiments.comparison import compare as compare_run
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import ExperimentResult, run_experiment


@click.command()
@settings(ExperimentConfig)
@json_option
def experiment(as_json: bool, **flags: Any) -> None:
    """Ask all questions with all prompts; runs, traces, tables and a plot go to MLflow."""
    config = ExperimentConfig.load(flags)
    with cells_progress("asking") as progress:
        result = run_experiment(config, progress=progress, say=message)
    emit(as_json, result.as_dict(), _experiment_table(result))
    if not as_json:
        message(f"next: fledge compare {result.run_id}")


@click.command()
@settings(Workspace)
@click.argument("run", required=False)
@click.option("--scores", help="A CSV file with columns question, arm, and one for each metric.")
@click.option("--metric", help="The metric to compare; token_f1 where there are references.")
@click.option("--baseline", help="The arm that the others are compared with; the first one unless named.")
@click.option("--margin", type=float, help="Differences below this are as good as none.")
@click.option("--all-pairs", is_flag=True, help="Compare every arm with every other.")
@json_option
def compare(
    run: str | None,
    scores: str | None,
    metric: str | None,
    baseline: str | None,
    margin: float | None,
    all_pairs: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Say for each pair of arms of RUN whether one is better, worse, equivalent, or not known yet."""
    options = CompareOptions(metric, baseline, margin, all_pairs)
    result = compare_run(load(Workspace, flags).value, run, scores=scores, options=options)
    emit(as_json, result.as_dict(), *_comparison_lines(result))


def _experiment_table(result: ExperimentResult) -> Table:
    names = ("token_f1", "exact_match", "success_rate", "latency_mean_s")
    shown = [name for name in names if any(name in arm.metrics for arm in result.arms)]
    rows = [[arm.name, arm.prompt, *(arm.metrics.get(name) for name in shown)] for arm in result.arms]
    return table(f"run {result.run_id}", ["arm", "prompt", *shown], rows)


def _comparison_lines(result: Comparison) -> list[str]:
    lines = [f"  {pair.in_words(result.metric)}" for pair in result.pairs]
    if result.winner:
        return [*lines, f"winner: {result.winner}"]
    return [*lines, f"winner: none. {result.leader} has the best mean, which alone proves nothing."]
