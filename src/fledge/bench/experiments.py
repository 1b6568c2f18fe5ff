"""`bench_experiment`: an experiment of fledge compared with sequential LangChain calls, in the same run."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from fledge.bench.guard import guarded
from fledge.bench.measured_models import MODEL_HELP, MeasuredModel, find_models
from fledge.bench.processes import Measured, deadline, module, run
from fledge.bench.reporter import Reporter
from fledge.bench.rounds import quantile
from fledge.core import state
from fledge.core.errors import MissingExtraError
from fledge.core.settings import option, out_of_range
from fledge.core.types import Mode, Progress, Say, no_progress, silent
from fledge.engines import machine, selection
from fledge.engines.openvino_files import find_or_export
from fledge.engines.settings import EngineSettings
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.questions import select_questions
from fledge.models.embedded.templates import TEMPLATES

PEER = "langchain-pipeline"
RECORDED, UNRECORDED = "fledge", "fledge, unrecorded"


@dataclass(frozen=True)
class ExperimentBenchConfig(EngineSettings):
    """Settings of `bench_experiment`."""

    experiment_name: str = option("fledge-bench", "MLflow experiment", env="EXPERIMENT_NAME")
    model: str = option("", MODEL_HELP)
    limit: int = option(25, "questions, each asked with the four default prompts")
    tokens: int = option(64, "new tokens of each answer")
    repeats: int = option(3, "runs of fledge, with and without recording; the peer runs once")

    def problems(self) -> list[str]:
        return super().problems() + out_of_range(self, ("limit", 1, 10_000), ("tokens", 1, 512), ("repeats", 1, 100))


@dataclass(frozen=True)
class ExperimentBenchResult:
    """`rows` has one entry for each model and method, from the run with the median wall time; `ratios` is the peer's
    wall time divided by fledge's, by model and load (number of answers).

    `recording_share`, by model, is the fraction of fledge's wall time that recording takes. `notes` says what was not
    measured, and why.
    """

    machine: dict[str, Any]
    models: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    ratios: dict[str, dict[str, dict[str, dict[str, float]]]]
    recording_share: dict[str, float]
    notes: list[str] = field(default_factory=list)
    run_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench_experiment(
    config: ExperimentBenchConfig, progress: Progress = no_progress, say: Say = silent
) -> ExperimentBenchResult:
    """Ask the same cells with three methods, each in its own process and tracking store: sequential LangChain calls
    with a nested run for each, fledge, and fledge without recording. Loading models and registering prompts is not
    measured.

    Raises `MissingExtraError` if LangChain's pipeline is not installed.
    """
    if find_spec("langchain_huggingface") is None:
        raise MissingExtraError("langchain-huggingface", "bench")
    about = {**machine.describe(), "busy": psutil.cpu_percent(interval=1.0) / 100}
    notes: list[str] = []
    with guarded(), Reporter(progress, say) as reporter:
        models = find_models(config.model, config, reporter.say, notes)
        reporter.total = len(models) * (1 + 2 * config.repeats)
        rows = [row for model in models for row in _measure(config, model, reporter)]
    seconds = {(row["model"], row["peer"]): row["seconds"] for row in rows}
    cells = str(rows[0]["load"])
    result = ExperimentBenchResult(
        about,
        [model.describe() for model in models],
        rows,
        {
            model.name: {"fledge": {PEER: {cells: seconds[model.name, PEER] / seconds[model.name, RECORDED]}}}
            for model in models
        },
        {model.name: 1 - seconds[model.name, UNRECORDED] / seconds[model.name, RECORDED] for model in models},
        notes,
    )

    from fledge.bench._mlflow_runs import record_experiment

    return replace(result, run_id=record_experiment(config, result))


def _measure(config: ExperimentBenchConfig, model: MeasuredModel, reporter: Reporter) -> list[dict[str, Any]]:
    """Measure one model; returns its rows."""
    path = str(model.snapshot.path)
    settings = {name: getattr(config, name) for name in ("engine", "device", "mode", "cache_gb", "limit", "cache")}
    experiment = ExperimentConfig(**settings, model=path, state=config.state)
    questions = [item.question for item in select_questions(experiment).questions]
    if selection.choose(experiment).name == "openvino":  # export outside of the measured processes
        mode: Mode = "fast" if config.mode == "fast" else "exact"
        find_or_export(model.snapshot, config.cache_dir / "engines", mode, reporter.say)
    cells = len(questions) * len(TEMPLATES)
    common = {"templates": TEMPLATES, "tokens": config.tokens, "chat": model.chat}
    subject = {**common, "config": {**settings, "model": path}}
    runs: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/peer.db"
        peer = {**common, "questions": questions, "model": path, "tracking_uri": store}
        methods = [
            *[(method, f"{folder}/{number}") for number in range(config.repeats) for method in (UNRECORDED, RECORDED)],
            (PEER, ""),
        ]
        for method, place in methods:
            what = f"{model.name}, {method}"
            reporter.begin(what)
            command = module("_hf_poc", peer) if method == PEER else _subject_command(method, subject, Path(place))
            runs.setdefault(method, []).append(run(command, deadline(cells * config.tokens)))
            reporter.step(what)
    return [
        {"model": model.name, **_make_row(method, cells, config.tokens, measured)} for method, measured in runs.items()
    ]


def _subject_command(method: str, content: Mapping[str, Any], place: Path) -> list[str]:
    """Return the command of a fledge run with its own store."""
    own = state.ensure(place / method.replace(", ", "-"))
    where = {"tracking_uri": f"sqlite:///{own}/mlflow.db", "state": str(own)}
    verb = "recorded" if method == RECORDED else "unrecorded"
    return module("experiment_worker", verb, {**content, "config": {**content["config"], **where}})


def _make_row(name: str, cells: int, tokens: int, runs: list[Measured]) -> dict[str, Any]:
    median = sorted(runs, key=lambda measured: float(measured.lines[0]["seconds"]))[len(runs) // 2]
    (line,) = median.lines
    return {
        "peer": name,
        "load": cells,
        "seconds": line["seconds"],
        "requests_per_s": cells / line["seconds"],
        "output_tokens_per_s": cells * tokens / line["seconds"],
        "ttft_p50_s": quantile(line["ttfts"], 0.5) if line["ttfts"] else None,
        "latency_p50_s": quantile(line["latencies"], 0.5),
        "latency_p99_s": quantile(line["latencies"], 0.99),
        "errors": 0,
        "memory_bytes": median.memory_bytes,
    }
