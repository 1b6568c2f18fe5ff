"""`fledge bench`."""

from typing import Any

import click
from rich.table import Table

from fledge.bench.engines import PEER, BenchConfig, BenchResult, bench_engines
from fledge.bench.experiments import ExperimentBenchConfig, bench_experiment
from fledge.cli.options import settings
from fledge.cli.output import emit, json_option, message, steps_progress, table
from fledge.core.settings import load


@click.group()
def bench() -> None:
    """Measure fledge against what you would use instead, on this machine."""


@bench.command()
@settings(
    BenchConfig, without=("engine", "mode", "fast_limit", "remote_concurrency", "prompt_price", "completion_price")
)
@json_option
def engine(as_json: bool, **flags: Any) -> None:
    """Output tokens/s of each engine against a batched transformers.generate; table, plot and figures go to MLflow."""
    config = load(BenchConfig, flags).value
    with steps_progress("measuring") as progress:
        result = bench_engines(config, progress=progress, say=message)
    emit(as_json, result.as_dict(), _table(result), _legend(result))
    if not as_json:
        message(f"plot and figures: MLflow experiment {config.experiment_name}, run {result.run_id}")


@bench.command()
@settings(ExperimentBenchConfig, without=("fast_limit", "remote_concurrency", "prompt_price", "completion_price"))
@json_option
def experiment(as_json: bool, **flags: Any) -> None:
    """Wall time of an experiment against one LangChain call after another with a nested run for each."""
    config = load(ExperimentBenchConfig, flags).value
    with steps_progress("measuring") as progress:
        result = bench_experiment(config, progress=progress, say=message)
    ((answers, ratio),) = result.ratios["fledge"]["langchain-pipeline"].items()
    rows = [[row["peer"], round(row["seconds"], 1), round(row["output_tokens_per_s"])] for row in result.rows]
    emit(
        as_json,
        result.as_dict(),
        table(f"{answers} answers of {result.model}", ["way", "seconds", "tok/s"], rows),
        f"fledge is {ratio:.1f} times as fast; recording takes {result.recording_share:.0%} of its time.",
    )
    if not as_json:
        message(f"plot and figures: MLflow experiment {config.experiment_name}, run {result.run_id}")


def _table(result: BenchResult) -> Table:
    rows = [
        [
            row["peer"] if row["peer"] != PEER else "generate (peer)",
            row["load"],
            round(row["output_tokens_per_s"]),
            _ratio(result, row),
            round(row["ttft_p50_s"] * 1000),
            f"{row['inter_token_p50_s'] * 1000:.0f}/{row['inter_token_p99_s'] * 1000:.0f}",
            f"{row['share_of_limit']:.0%}",
            round(row["memory_bytes"] / 1e6),
        ]
        for row in result.rows
    ]
    columns = ["engine", "n", "tok/s", "ratio", "TTFT ms", "ITL ms", "limit", "MB"]
    return table(f"{result.model} on {result.machine['cpu']}, {result.machine['threads']} threads", columns, rows)


def _ratio(result: BenchResult, row: dict[str, Any]) -> str:
    return "" if row["peer"] == PEER else f"{result.ratios[row['peer']][PEER][str(row['load'])]:.1f}"


def _legend(result: BenchResult) -> str:
    limits = result.limits
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in limits["flops_per_s"].items())
    return (
        f"n: sequences at once. ratio: tokens/s over {PEER}, the whole batch at once. ITL: between tokens, p50/p99.\n"
        f"limit: share of what {limits['bytes_per_s'] / 1e9:.0f} GB/s of memory and {rates} allow, "
        "as probed in the same run."
    )
