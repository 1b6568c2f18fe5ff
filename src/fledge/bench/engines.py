"""`bench_engines`: tokens a second of fledge's engines against plain `transformers.generate`, in the same run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import psutil

from fledge.bench.processes import Measured, module, random_model, run
from fledge.bench.rounds import Plan, Round, summarize
from fledge.core.errors import InputError
from fledge.core.settings import option, out_of_range
from fledge.engines import machine, selection
from fledge.engines.openvino_files import Say, exported
from fledge.engines.selection import EngineSettings
from fledge.models.snapshot import Snapshot

PEER = "transformers.generate"
SUBJECTS = ("openvino-exact", "openvino-fast", "transformers")
QUIET = 0.15

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class BenchConfig(EngineSettings):
    """What is measured, and how often."""

    experiment_name: str = option("fledge-bench", "MLflow experiment", env="EXPERIMENT_NAME")
    model: str = option("", "model to measure; DialoGPT-small's architecture with random weights unless named")
    subjects: tuple[str, ...] = option(SUBJECTS, "engines to measure against transformers.generate")
    loads: tuple[int, ...] = option((1, 4, 16, 64), "sequences at once")
    prompt_tokens: int = option(16, "tokens of each prompt")
    tokens: int = option(64, "new tokens of each sequence")
    repeats: int = option(3, "rounds at each load")

    def problems(self) -> list[str]:
        found = super().problems() + out_of_range(
            self, ("prompt_tokens", 1, 100_000), ("tokens", 1, 4096), ("repeats", 1, 1000)
        )
        if not self.loads or not all(1 <= load <= 512 for load in self.loads):
            found.append(f"loads must be from 1 to 512, not {self.loads}")
        unknown = sorted(set(self.subjects) - set(SUBJECTS))
        if unknown:
            found.append(f"subjects are {', '.join(SUBJECTS)}, not {', '.join(unknown)}")
        return found


@dataclass(frozen=True)
class BenchResult:
    """`rows` has one entry for each peer and load; `ratios` is fledge over the peer, by engine, peer and load.

    `limits` is the probe of the same run: a step of N sequences takes at least the longer of reading all weights and
    2 x N operations for each weight, of the fastest type for int8 and of fp32 for all others.
    """

    machine: dict[str, Any]
    model: str
    limits: dict[str, Any]
    rows: list[dict[str, Any]]
    ratios: dict[str, dict[str, dict[str, float]]]
    run_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench_engines(
    config: BenchConfig, progress: Progress = lambda _done, _all, _what: None, say: Say = lambda _: None
) -> BenchResult:
    """Measure each subject and the peer in processes of their own, one after the other, and record it in MLflow.

    `progress(done, total, what)` is called after each round. Raises `InputError` if a subject is not installed.
    """
    for engine in {_settings(config, subject).engine for subject in config.subjects} | {"transformers"}:
        if not selection.installed(engine):
            raise InputError(f"{engine} is not installed", hint='pip install "fledge[models,openvino]"')
    about = {**machine.describe(), "busy": psutil.cpu_percent(interval=1.0) / 100}
    if about["busy"] > QUIET:
        say(f"other programs use {about['busy']:.0%} of this machine: the figures will be lower than they could be")
    model = selection.find_snapshot(config.model or str(random_model(config.cache_dir, say)), config)
    plan = Plan(config.loads, config.repeats, config.prompt_tokens, config.tokens, model.vocabulary)
    if config.prompt_tokens + config.tokens > model.context:
        raise InputError(
            f"{model.source} takes {model.context} tokens in all", hint="lower --prompt-tokens or --tokens"
        )
    device = "cuda" if machine.gpu() and config.device != "cpu" else "cpu"
    (limits,) = run(module("_hf_peer", "probe", {"device": device})).lines
    weights = {name: _weight_bytes(config, name, model, say) for name in config.subjects}
    commands = {
        PEER: module("_hf_peer", "peer", {"plan": asdict(plan), "model": str(model.path), "device": device}),
        **{name: _subject(config, name, model, plan) for name in config.subjects},
    }
    total = len(commands) * len(config.loads) * config.repeats
    rows: list[dict[str, Any]] = []
    for place, (name, command) in enumerate(commands.items()):
        start = place * len(config.loads) * config.repeats
        measured = run(command, partial(_tell, progress, start, total, name))
        rows += _rows(name, measured, config, limits, weights.get(name, 4 * model.parameters), model.parameters)
    result = BenchResult(
        about, model.source if config.model else "DialoGPT-small, random weights", limits, rows, _ratios(rows)
    )

    from fledge.bench._mlflow import record_engines

    return replace(result, run_id=record_engines(config, result))


def _tell(progress: Progress, before: int, total: int, name: str, done: int) -> None:
    progress(before + done, total, name)


def _rows(
    name: str, measured: Measured, config: BenchConfig, limits: dict[str, Any], weight_bytes: int, parameters: int
) -> list[dict[str, Any]]:
    rates = limits["flops_per_s"]
    # Only int8 weights may be computed with in less than fp32.
    flops = max(rates.values()) if name.endswith("-fast") else rates["float32"]
    rows = []
    for load in config.loads:
        summary = summarize([Round(**line) for line in measured.lines if line["load"] == load])
        step = max(weight_bytes / limits["bytes_per_s"], load * 2 * parameters / flops)
        rows.append(
            {
                "peer": name,
                "load": load,
                **summary._asdict(),
                "limit_tokens_per_s": load / step,
                "share_of_limit": summary.output_tokens_per_s * step / load,
                "errors": 0,
                "memory_bytes": measured.memory_bytes,
            }
        )
    return rows


def _ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    speed = {(row["peer"], row["load"]): row["output_tokens_per_s"] for row in rows}
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    for (name, load), value in speed.items():
        if name != PEER:
            ratios.setdefault(name, {PEER: {}})[PEER][str(load)] = value / speed[PEER, load]
    return ratios


def _settings(config: BenchConfig, subject: str) -> EngineSettings:
    engine, _, mode = subject.partition("-")
    common = {item.name: getattr(config, item.name) for item in fields(EngineSettings)}
    return EngineSettings(**{**common, "engine": engine, "mode": mode or "exact"})


def _weight_bytes(config: BenchConfig, subject: str, model: Snapshot, say: Say) -> int:
    """What a step must read; exports what is not yet, so that no measured process does."""
    settings = _settings(config, subject)
    if settings.engine != "openvino":
        return 4 * model.parameters
    mode: Any = settings.mode
    return (exported(model, config.cache_dir / "engines", mode, say) / "openvino_model.bin").stat().st_size


def _subject(config: BenchConfig, name: str, model: Snapshot, plan: Plan) -> list[str]:
    content = {"plan": asdict(plan), "model": str(model.path), "settings": asdict(_settings(config, name))}
    return module("subject", content)
