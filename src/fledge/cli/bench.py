"""`fledge bench`."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from fledge.bench.engines import PEER, BenchConfig, BenchResult, bench_engines
from fledge.bench.experiments import ExperimentBenchConfig, ExperimentBenchResult, bench_experiment
from fledge.bench.serving import ServeBenchConfig, ServeBenchResult, bench_serve
from fledge.cli.options import group, settings
from fledge.cli.output import emit, json_option, message, steps_progress, table
from fledge.core.settings import load


@group()
def bench() -> None:
    """Benchmark fledge against its alternatives on this machine."""


@bench.command()
@settings(
    BenchConfig, without=("engine", "mode", "fast_limit", "remote_concurrency", "prompt_price", "completion_price")
)
@json_option
def engine(as_json: bool, **flags: Any) -> None:
    """Compare each engine's output tokens/s with batched transformers.generate; results are logged to MLflow."""
    config = load(BenchConfig, flags).value
    with steps_progress("measuring") as progress:
        result = bench_engines(config, progress=progress, say=message)
    emit(as_json, result.as_dict(), *_tables(result), _format_legend(result))
    if not as_json:
        message(f"plot and figures: MLflow experiment {config.experiment_name}, run {result.run_id}")


@bench.command()
@settings(ExperimentBenchConfig, without=("fast_limit", "remote_concurrency", "prompt_price", "completion_price"))
@json_option
def experiment(as_json: bool, **flags: Any) -> None:
    """Compare an experiment's wall time with sequential LangChain calls, each in a nested run."""
    config = load(ExperimentBenchConfig, flags).value
    with steps_progress("measuring") as progress:
        result = bench_experiment(config, progress=progress, say=message)
    emit(as_json, result.as_dict(), *_experiment_tables(result))
    if not as_json:
        message(f"plot and figures: MLflow experiment {config.experiment_name}, run {result.run_id}")


@bench.command()
@settings(ServeBenchConfig, without=("mode", "fast_limit", "remote_concurrency", "prompt_price", "completion_price"))
@json_option
def serve(as_json: bool, **flags: Any) -> None:
    """Load-test fledge's endpoint against mlflow models serve, transformers serve and LitServe."""
    config = load(ServeBenchConfig, flags).value
    with steps_progress("measuring") as progress:
        result = bench_serve(config, progress=progress, say=message)
    emit(as_json, result.as_dict(), *_serve_tables(config, result), _format_serve_legend(config, result))
    if not as_json:
        message(f"plot and figures: MLflow experiment {config.experiment_name}, run {result.run_id}")


def _experiment_tables(result: ExperimentBenchResult) -> Iterator[Table | str]:
    """Yield a table and its conclusion for each model, then the notes."""
    for model in result.models:
        name = model["name"]
        ((answers, ratio),) = result.ratios[name]["fledge"]["langchain-pipeline"].items()
        rows = [
            [row["peer"], round(row["seconds"], 1), round(row["output_tokens_per_s"])]
            for row in result.rows
            if row["model"] == name
        ]
        yield table(f"{answers} answers of {name}", ["way", "seconds", "tok/s"], rows)
        yield f"fledge is {ratio:.1f} times as fast; recording takes {result.recording_share[name]:.0%} of its time."
    yield from result.notes


def _serve_tables(config: ServeBenchConfig, result: ServeBenchResult) -> Iterator[Table]:
    """Yield two tables for each model."""
    for model in result.models:
        yield _build_serve_table(result, model)
        yield _build_servers_table(config, result, model["name"])


def _build_serve_table(result: ServeBenchResult, model: dict[str, Any]) -> Table:
    rows = [
        [
            row["peer"],
            f"{row['load']:g}{'' if row['loop'] == 'closed' else '/s'}",
            f"{row['requests_per_s']:.2f}",
            _format_ms(row["ttft_p50_s"]),
            f"{_format_ms(row['inter_token_p50_s'])}/{_format_ms(row['inter_token_p99_s'])}".strip("/"),
            f"{_format_seconds(row['latency_p50_s'])}/{_format_seconds(row['latency_p99_s'])}".strip("/"),
            f"{row['goodput_per_s']:.2f}",
            row["errors"],
        ]
        for row in result.rows
        if row["model"] == model["name"]
    ]
    columns = ["server", "load", "req/s", "TTFT", "ITL", "latency", "good/s", "err"]
    return table(_format_title(result, model), columns, rows)


def _build_servers_table(config: ServeBenchConfig, result: ServeBenchResult, model: str) -> Table:
    ratios = result.ratios[model].get(config.subjects[0], {})
    rows = [
        [
            server["peer"],
            _format_seconds(server["ready_seconds"]),
            round(server["memory_bytes"] / 1e6),
            *(_format_ratio(ratios.get(server["peer"], {}).get(f"{load:g}")) for load in config.loads),
        ]
        for server in result.peers
        if server["model"] == model
    ]
    return table("", ["server", "ready s", "MB", *(f"ratio {load:g}" for load in config.loads)], rows)


def _format_serve_legend(config: ServeBenchConfig, result: ServeBenchResult) -> str:
    lines = [
        f"load: concurrent clients (closed loop) or requests/s (open loop); {config.tokens} new tokens per request.",
        "TTFT: ms to the first token; ITL: ms between chunks of an answer, p50/p99; latency: s, p50/p99.",
        f"good/s: answers with TTFT <= {config.slo_ttft_s:g} s and latency <= {config.slo_latency_s:g} s.",
        f"ready: s from start to the first answer. ratio: requests/s of {config.subjects[0]} over this server.",
        "engine: fledge's engine in-process, without HTTP.",
    ]
    for model, endpoints in result.http_over_engine.items():
        for name, shares in endpoints.items():
            known = [f"{share:.0%} at {load}" for load, share in shares.items() if share is not None]
            lines.append(f"{model}: {name} relative to its engine in-process: {', '.join(known)}")
    if result.check:
        theirs, ours = result.check["requests_per_s"], result.check["own_requests_per_s"]
        lines.append(f"{result.check['tool']} measures {theirs:.2f} requests/s, fledge {ours:.2f}.")
    return "\n".join([*lines, *result.notes])


def _format_ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}"


def _format_ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f}"


def _format_seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _tables(result: BenchResult) -> Iterator[Table]:
    """Yield a table for each model."""
    columns = ["engine", "n", "tok/s", "ratio", "TTFT ms", "ITL ms", "limit", "MB"]
    for model in result.models:
        rows = [
            [
                row["peer"] if row["peer"] != PEER else "generate (peer)",
                row["load"],
                round(row["output_tokens_per_s"]),
                _format_ratio_to_fledge(result, row),
                round(row["ttft_p50_s"] * 1000),
                f"{row['inter_token_p50_s'] * 1000:.0f}/{row['inter_token_p99_s'] * 1000:.0f}",
                "" if row["share_of_limit"] is None else f"{row['share_of_limit']:.0%}",
                round(row["memory_bytes"] / 1e6),
            ]
            for row in result.rows
            if row["model"] == model["name"]
        ]
        yield table(_format_title(result, model), columns, rows)


def _format_title(result: BenchResult | ServeBenchResult, model: dict[str, Any]) -> str:
    named = model["name"] if model["name"] == model["source"] else f"{model['name']} ({model['source']})"
    return f"{named} on {result.machine['cpu']}, {result.machine['threads']} threads"


def _format_ratio_to_fledge(result: BenchResult, row: dict[str, Any]) -> str:
    if row["peer"] == PEER:
        return ""
    return f"{result.ratios[row['model']][row['peer']][PEER][str(row['load'])]:.1f}"


def _format_legend(result: BenchResult) -> str:
    memory, rates = result.limits["bytes_per_s"], result.limits["flops_per_s"]
    probed = [] if memory is None else [f"{memory / 1e9:.0f} GB/s of memory"]
    probed += [f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in rates.items()]
    lines = [
        f"n: concurrent sequences. ratio: tokens/s over {PEER} with one batch. ITL: between tokens, p50/p99.",
        f"limit: share of the hardware limit ({', '.join(probed)}, probed in the same run)." if probed else "",
    ]
    return "\n".join([*filter(None, lines), *result.notes])
