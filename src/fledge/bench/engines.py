"""`bench_engines`: tokens/s of fledge's engines compared with `transformers.generate`, in the same run."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

import psutil

from fledge.bench.guard import guard_processes
from fledge.bench.limits import MachineLimits, probe_machine
from fledge.bench.measured_models import MODEL_HELP, MeasuredModel, find_models
from fledge.bench.processes import Measured, deadline, module, run
from fledge.bench.reporter import Reporter
from fledge.bench.rounds import Round, RoundPlan, summarize
from fledge.core.errors import InputError, MissingExtraError
from fledge.core.settings import option, out_of_range
from fledge.core.types import Progress, Say, no_progress, silent
from fledge.engines import machine, selection
from fledge.engines.openvino_files import find_or_export
from fledge.engines.settings import EngineSettings
from fledge.models.snapshot import Snapshot

PEER = "transformers.generate"
SUBJECTS = ("openvino-exact", "openvino-fast", "transformers")
KNOWN_SUBJECTS = (*SUBJECTS, "llamacpp")  # which needs a model with a GGUF file
MAX_BUSY = 0.15


@dataclass(frozen=True)
class BenchConfig(EngineSettings):
    """Settings of `bench_engines`."""

    experiment_name: str = option("fledge-bench", "MLflow experiment", env="EXPERIMENT_NAME")
    model: str = option("", MODEL_HELP)
    subjects: tuple[str, ...] = option(SUBJECTS, "engines to measure against transformers.generate")
    loads: tuple[int, ...] = option((1, 4, 16, 64), "concurrent sequences")
    prompt_tokens: int = option(16, "tokens of each prompt")
    tokens: int = option(64, "new tokens of each sequence")
    repeats: int = option(3, "rounds at each load")

    def problems(self) -> list[str]:
        found = super().problems() + out_of_range(
            self, ("prompt_tokens", 1, 100_000), ("tokens", 1, 4096), ("repeats", 1, 1000)
        )
        if not self.loads or not all(1 <= load <= 512 for load in self.loads):
            found.append(f"loads must be from 1 to 512, not {self.loads}")
        unknown = sorted(set(self.subjects) - set(KNOWN_SUBJECTS))
        if unknown:
            found.append(f"subjects are {', '.join(KNOWN_SUBJECTS)}, not {', '.join(unknown)}")
        return found


@dataclass(frozen=True)
class BenchResult:
    """`rows` has one entry for each model, peer and load; `ratios` is fledge divided by the peer, by model, engine,
    peer and load.

    `limits` are the machine's, probed in the same run. `notes` says what was not measured, and why.
    """

    machine: dict[str, Any]
    models: list[dict[str, Any]]
    limits: dict[str, Any]
    rows: list[dict[str, Any]]
    ratios: dict[str, dict[str, dict[str, dict[str, float]]]]
    notes: list[str] = field(default_factory=list)
    run_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench_engines(config: BenchConfig, progress: Progress = no_progress, say: Say = silent) -> BenchResult:
    """Measure each subject and the peer, one after the other, in their own processes, and record the run in MLflow.

    `progress(done, total, what)` is called after each round and every few seconds. Raises `MissingExtraError` if a
    subject is not installed.
    """
    for engine in {_subject_settings(config, subject).engine for subject in config.subjects} | {"transformers"}:
        if not selection.is_installed(engine):
            raise MissingExtraError(engine, selection.EXTRAS[engine])
    about = {**machine.describe(), "busy": psutil.cpu_percent(interval=1.0) / 100}
    if about["busy"] > MAX_BUSY:
        say(f"other programs use {about['busy']:.0%} of this machine's CPU, which lowers the figures")
    notes: list[str] = []
    with guard_processes(), Reporter(progress, say) as reporter:
        models = find_models(config.model, config, reporter.say, notes)
        plans = [_plan(config, model) for model in models]
        reporter.total = len(models) * (1 + len(config.subjects)) * len(config.loads) * config.repeats
        device = "cuda" if machine.has_gpu() and config.device != "cpu" else "cpu"
        limits = probe_machine(device, reporter, notes)
        rows = []
        for model, plan in zip(models, plans, strict=True):
            rows += _measure(config, model, plan, device, limits, reporter)
    result = BenchResult(
        about, [model.describe() for model in models], asdict(limits), rows, _compute_ratios(rows), notes
    )

    from fledge.bench._mlflow_runs import record_engines

    return replace(result, run_id=record_engines(config, result))


def _plan(config: BenchConfig, model: MeasuredModel) -> RoundPlan:
    snapshot, around = model.snapshot, model.around
    if len(around.before) + config.prompt_tokens + len(around.after) + config.tokens > snapshot.context:
        raise InputError(
            f"the context window of {snapshot.source} has only {snapshot.context} tokens",
            hint="lower --prompt-tokens or --tokens",
        )
    return RoundPlan(config.loads, config.repeats, config.prompt_tokens, config.tokens, snapshot.vocabulary, *around)


def _measure(
    config: BenchConfig, model: MeasuredModel, plan: RoundPlan, device: str, limits: MachineLimits, reporter: Reporter
) -> list[dict[str, Any]]:
    """Measure one model; returns the rows of the peer, then of each subject."""
    snapshot = model.snapshot
    weights = {name: _weight_bytes(config, name, snapshot, reporter.say) for name in config.subjects}
    commands = {
        PEER: module("_hf_peer", "peer", {"plan": asdict(plan), "model": str(snapshot.path), "device": device}),
        **{name: _subject_command(config, name, snapshot, plan) for name in config.subjects},
    }
    longest = deadline(max(config.loads) * config.tokens)
    rows: list[dict[str, Any]] = []
    for name, command in commands.items():
        what = f"{model.name}, {name}"
        reporter.begin(what)
        measured = run(command, longest, partial(_step, reporter, what))
        found = _make_rows(measured, config, limits, name, weights.get(name, 4 * snapshot.parameters), snapshot)
        rows += [{"model": model.name, "peer": name, **row} for row in found]
    return rows


def _step(reporter: Reporter, what: str, _lines: int) -> None:
    reporter.step(what)


def _make_rows(
    measured: Measured, config: BenchConfig, limits: MachineLimits, name: str, weight_bytes: int, model: Snapshot
) -> Iterator[dict[str, Any]]:
    for load in config.loads:
        summary = summarize([Round(**line) for line in measured.lines if line["load"] == load])
        limit = limits.tokens_per_s(load, weight_bytes, model.parameters, int8=name.endswith("-fast"))
        yield {
            "load": load,
            **summary._asdict(),
            "limit_tokens_per_s": limit,
            "share_of_limit": None if limit is None else summary.output_tokens_per_s / limit,
            "errors": 0,
            "memory_bytes": measured.memory_bytes,
        }


def _compute_ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    speed = {(row["model"], row["peer"], row["load"]): row["output_tokens_per_s"] for row in rows}
    ratios: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (model, name, load), value in speed.items():
        if name != PEER:
            over = ratios.setdefault(model, {}).setdefault(name, {PEER: {}})
            over[PEER][str(load)] = value / speed[model, PEER, load]
    return ratios


def _subject_settings(config: BenchConfig, subject: str) -> EngineSettings:
    engine, _, mode = subject.partition("-")
    common = {item.name: getattr(config, item.name) for item in fields(EngineSettings)}
    return EngineSettings(**{**common, "engine": engine, "mode": mode or "exact"})


def _weight_bytes(config: BenchConfig, subject: str, model: Snapshot, say: Say) -> int:
    """Return the bytes that a step reads. Exports the model if needed, outside of the measured processes."""
    settings = _subject_settings(config, subject)
    if settings.engine == "llamacpp":
        return selection.check_gguf(model).stat().st_size
    if settings.engine != "openvino":
        return 4 * model.parameters
    mode: Any = settings.mode
    return (find_or_export(model, config.cache_dir / "engines", mode, say) / "openvino_model.bin").stat().st_size


def _subject_command(config: BenchConfig, name: str, model: Snapshot, plan: RoundPlan) -> list[str]:
    content = {"plan": asdict(plan), "model": str(model.path), "settings": asdict(_subject_settings(config, name))}
    return module("engine_worker", content)
