"""Record a benchmark in MLflow: one run with figures, plot and JSON."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from mlflow.entities import Metric, Param

from fledge.bench.plots import plot_serving, plot_throughput, plot_wall_time
from fledge.tracking._mlflow_connection import connect, experiment_id, run_within

if TYPE_CHECKING:
    from fledge.bench.engines import BenchConfig, BenchResult
    from fledge.bench.experiments import ExperimentBenchConfig, ExperimentBenchResult
    from fledge.bench.serving import ServeBenchConfig, ServeBenchResult


def record_engines(config: "BenchConfig", result: "BenchResult") -> str:
    """Write the run of an engine benchmark and return its id."""
    figures = ("output_tokens_per_s", "ttft_p50_s", "inter_token_p99_s", "share_of_limit", "memory_bytes")
    metrics = {
        f"{row['model']}.{row['peer']}.{name}.{row['load']}": row[name]
        for row in result.rows
        for name in figures
        if row[name] is not None
    }
    params = {"tokens": config.tokens, "repeats": config.repeats}
    return _record(config, "engine", result, params, metrics, plot_throughput(result.rows))


def record_experiment(config: "ExperimentBenchConfig", result: "ExperimentBenchResult") -> str:
    """Write the run of an experiment benchmark and return its id."""
    metrics = {f"{row['model']}.{row['peer'].replace(',', '')}.seconds": row["seconds"] for row in result.rows}
    metrics |= {f"{model}.recording_share": share for model, share in result.recording_share.items()}
    params = {"tokens": config.tokens, "questions": config.limit, "repeats": config.repeats}
    return _record(config, "experiment", result, params, metrics, plot_wall_time(result.rows))


def record_serving(config: "ServeBenchConfig", result: "ServeBenchResult") -> str:
    """Write the run of a serving benchmark and return its id."""
    figures = ("requests_per_s", "ttft_p50_s", "latency_p50_s", "latency_p99_s", "goodput_per_s", "errors")
    metrics = {
        f"{row['model']}.{row['peer']}.{name}.{row['loop']}.{row['load']:g}": row[name]
        for row in result.rows
        for name in figures
        if row[name] is not None
    }
    for server in result.peers:
        start = f"{server['model']}.{server['peer']}"
        metrics |= {f"{start}.{name}": server[name] for name in ("ready_seconds", "memory_bytes") if server[name]}
    names = ("tokens", "prompt_characters", "seconds", "repeats", "slo_ttft_s", "slo_latency_s")
    params = {name: getattr(config, name) for name in names}
    return _record(config, "serve", result, params, metrics, plot_serving(result.rows))


def _record(
    config: "BenchConfig | ExperimentBenchConfig | ServeBenchConfig",
    kind: str,
    result: "BenchResult | ExperimentBenchResult | ServeBenchResult",
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    figure: Figure,
) -> str:
    client = connect(config.tracking)
    about = {name: value for name, value in result.machine.items() if name != "versions"}
    about["model"] = ", ".join(model["source"] for model in result.models)
    now = int(time.time() * 1000)
    experiment = experiment_id(client, config.experiment_name)
    name = f"bench-{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    with run_within(client, experiment, name, {"fledge.kind": "bench"}) as run:
        client.log_batch(
            run.run_id,
            metrics=[Metric(name, float(value), now, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in {**params, **about}.items()],
        )
        client.log_dict(run.run_id, result.as_dict(), "bench.json")
        client.log_figure(run.run_id, figure, "bench.png")
    return str(run.run_id)
