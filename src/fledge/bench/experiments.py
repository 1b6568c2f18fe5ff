"""`bench_experiment`: an experiment of fledge against one LangChain call after another, in the same run."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from fledge.bench.processes import Measured, module, random_model, run
from fledge.bench.rounds import quantile
from fledge.core import state
from fledge.core.errors import MissingExtraError
from fledge.core.settings import option, out_of_range
from fledge.engines import machine, selection
from fledge.engines.openvino_files import Say, exported
from fledge.engines.selection import EngineSettings
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import select_questions
from fledge.models.embedded.templates import TEMPLATES

PEER = "langchain-pipeline"
RECORDED, UNRECORDED = "fledge", "fledge, unrecorded"

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ExperimentBenchConfig(EngineSettings):
    """What is asked, and how often."""

    experiment_name: str = option("fledge-bench", "MLflow experiment", env="EXPERIMENT_NAME")
    model: str = option("", "model to ask; DialoGPT-small's architecture with random weights unless named")
    limit: int = option(25, "questions, each asked with the four default prompts")
    tokens: int = option(64, "new tokens of each answer")
    repeats: int = option(3, "times that fledge asks, with and without recording; the peer asks once")

    def problems(self) -> list[str]:
        return super().problems() + out_of_range(self, ("limit", 1, 10_000), ("tokens", 1, 512), ("repeats", 1, 100))


@dataclass(frozen=True)
class ExperimentBenchResult:
    """`rows` has one entry for each way, of the run with the median wall time; `ratios` is the peer's wall time over
    fledge's, by load (answers in all).

    `recording_share` is the share of fledge's wall time that goes away when nothing is recorded.
    """

    machine: dict[str, Any]
    model: str
    rows: list[dict[str, Any]]
    ratios: dict[str, dict[str, dict[str, float]]]
    recording_share: float
    run_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench_experiment(
    config: ExperimentBenchConfig, progress: Progress = lambda _done, _all, _what: None, say: Say = lambda _: None
) -> ExperimentBenchResult:
    """Ask the same cells three ways, each in a process and a tracking store of its own: one LangChain call after
    another with a nested run for each, fledge, and fledge without recording. Models are loaded and prompts registered
    before the clock runs.

    Raises `MissingExtraError` if LangChain's pipeline is not installed.
    """
    if find_spec("langchain_huggingface") is None:
        raise MissingExtraError("langchain-huggingface", "bench")
    about = {**machine.describe(), "busy": psutil.cpu_percent(interval=1.0) / 100}
    model = selection.find_snapshot(config.model or str(random_model(config.cache_dir, say)), config)
    settings = {name: getattr(config, name) for name in ("engine", "device", "mode", "cache_gb", "limit", "cache")}
    asked = ExperimentConfig(**settings, model=str(model.path), state=config.state)
    questions = [item.question for item in select_questions(asked).questions]
    if selection.choose(asked).name == "openvino":  # so that no measured process does it
        exported(model, config.cache_dir / "engines", "fast" if config.mode == "fast" else "exact", say)
    cells = len(questions) * len(TEMPLATES)
    say(f"about {1 + cells * config.tokens / 600:.0f} minutes, most of it one LangChain call after another")
    with tempfile.TemporaryDirectory() as folder:
        common = {"templates": TEMPLATES, "tokens": config.tokens}
        subject = {**common, "config": {**settings, "model": str(model.path)}}
        peer = {
            **common,
            "questions": questions,
            "model": str(model.path),
            "tracking_uri": f"sqlite:///{folder}/peer.db",
        }
        ways = [
            *[(way, f"{folder}/{number}") for number in range(config.repeats) for way in (UNRECORDED, RECORDED)],
            (PEER, ""),
        ]
        runs: dict[str, list[Measured]] = {}
        for done, (way, place) in enumerate(ways):
            progress(done, len(ways), way)
            command = module("_hf_poc", peer) if way == PEER else _subject(way, subject, Path(place))
            runs.setdefault(way, []).append(run(command))
    rows = [_row(way, cells, config.tokens, measured) for way, measured in runs.items()]
    seconds = {row["peer"]: row["seconds"] for row in rows}
    result = ExperimentBenchResult(
        about,
        model.source if config.model else "DialoGPT-small, random weights",
        rows,
        {"fledge": {PEER: {str(cells): seconds[PEER] / seconds[RECORDED]}}},
        1 - seconds[UNRECORDED] / seconds[RECORDED],
    )

    from fledge.bench._mlflow import record_experiment

    return replace(result, run_id=record_experiment(config, result))


def _subject(way: str, content: dict[str, Any], place: Path) -> list[str]:
    """Fledge with a store of its own, and with the models that are exported already."""
    own = state.ensure(place / way.replace(", ", "-"))
    where = {"tracking_uri": f"sqlite:///{own}/mlflow.db", "state": str(own)}
    verb = "recorded" if way == RECORDED else "unrecorded"
    return module("asked", verb, {**content, "config": {**content["config"], **where}})


def _row(name: str, cells: int, tokens: int, runs: list[Measured]) -> dict[str, Any]:
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
