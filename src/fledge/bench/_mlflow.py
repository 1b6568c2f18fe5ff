"""A benchmark in MLflow: one run with its figures, its plot and its JSON."""

import time
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param

from fledge.bench.plots import plot_throughput
from fledge.tracking._mlflow import connect, experiment_id

if TYPE_CHECKING:
    from fledge.bench.engines import BenchConfig, BenchResult


def record(config: "BenchConfig", result: "BenchResult") -> str:
    """Write the run and return its id."""
    client = connect(config.tracking)
    run = client.create_run(
        experiment_id(client, config.experiment_name),
        run_name=f"bench-engine-{time.strftime('%Y%m%d-%H%M%S')}",
        tags={"fledge.kind": "bench"},
    )
    run_id = str(run.info.run_id)
    about = {name: value for name, value in result.machine.items() if name != "versions"}
    params = {"model": result.model, "tokens": config.tokens, "repeats": config.repeats, **about}
    now = int(time.time() * 1000)
    metrics = [
        Metric(f"{row['peer']}.{name}.{row['load']}", float(row[name]), now, 0)
        for row in result.rows
        for name in ("output_tokens_per_s", "ttft_p50_s", "inter_token_p99_s", "share_of_limit", "memory_bytes")
    ]
    client.log_batch(
        run_id, metrics=metrics, params=[Param(name, str(value)) for name, value in {**params, **about}.items()]
    )
    client.log_dict(run_id, result.as_dict(), "bench.json")
    client.log_figure(run_id, plot_throughput(result.rows), "bench.png")
    client.set_terminated(run_id, "FINISHED")
    return run_id
