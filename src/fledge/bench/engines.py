"""`bench_engines`: tokens a second of fledge's engines against plain `transformers.generate`, in the same run."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from fledge.bench.rounds import Plan, Round, summarize
from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import option
from fledge.models import machine, selection, snapshot
from fledge.models.openvino_files import Say, exported
from fledge.models.selection import EngineSettings
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.loads or not all(1 <= load <= 512 for load in self.loads):
            raise ValueError(f"loads must be from 1 to 512, not {self.loads}")
        for name, value, high in (
            ("prompt_tokens", self.prompt_tokens, 100_000),
            ("tokens", self.tokens, 4096),
            ("repeats", self.repeats, 1000),
        ):
            if not 1 <= value <= high:
                raise ValueError(f"{name} must be from 1 to {high}, not {value}")
        unknown = sorted(set(self.subjects) - set(SUBJECTS))
        if unknown:
            raise ValueError(f"subjects are {', '.join(SUBJECTS)}, not {', '.join(unknown)}")


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
    model = snapshot.resolve(config.model or str(_random_model(config, say)))
    plan = Plan(config.loads, config.repeats, config.prompt_tokens, config.tokens, model.vocabulary)
    if config.prompt_tokens + config.tokens > model.context:
        raise InputError(
            f"{model.source} takes {model.context} tokens in all", hint="lower --prompt-tokens or --tokens"
        )
    device = "cuda" if machine.gpu() and config.device != "cpu" else "cpu"
    limits = _once("probe", {"device": device})
    weights = {name: _weight_bytes(config, name, model, say) for name in config.subjects}
    commands = {
        PEER: _peer("peer", {"plan": asdict(plan), "model": str(model.path), "device": device}),
        **{name: _subject(config, name, model, plan) for name in config.subjects},
    }
    total = len(commands) * len(config.loads) * config.repeats
    rows: list[dict[str, Any]] = []
    for place, (name, command) in enumerate(commands.items()):
        start = place * len(config.loads) * config.repeats
        measured = _measure(command, partial(_tell, progress, start, total, name))
        rows += _rows(name, measured, config, limits, weights.get(name, 4 * model.parameters), model.parameters)
    result = BenchResult(
        about, model.source if config.model else "DialoGPT-small, random weights", limits, rows, _ratios(rows)
    )

    from fledge.bench._mlflow import record

    return replace(result, run_id=record(config, result))


def _tell(progress: Progress, before: int, total: int, name: str, done: int) -> None:
    progress(before + done, total, name)


class Measured(NamedTuple):
    """The rounds of one process, and the most memory it had (PSS, with its children), in bytes."""

    rounds: list[Round]
    memory_bytes: int


def _rows(
    name: str, measured: Measured, config: BenchConfig, limits: dict[str, Any], weight_bytes: int, parameters: int
) -> list[dict[str, Any]]:
    rates = limits["flops_per_s"]
    # Only int8 weights may be computed with in less than fp32.
    flops = max(rates.values()) if name.endswith("-fast") else rates["float32"]
    rows = []
    for load in config.loads:
        summary = summarize([one for one in measured.rounds if one.load == load])
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
    return (exported(model, config.state_dir / "engines", mode, say) / "openvino_model.bin").stat().st_size


def _random_model(config: BenchConfig, say: Say) -> Path:
    folder = state.ensure(config.state_dir / "bench") / "random-dialogpt-small"
    if not folder.is_dir():
        say("making a model of DialoGPT-small's architecture with random weights, about 10 s")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            _once("model", {"folder": f"{temporary}/model"})
            Path(temporary, "model").rename(folder)
    return folder


def _subject(config: BenchConfig, name: str, model: Snapshot, plan: Plan) -> list[str]:
    content = {"plan": asdict(plan), "model": str(model.path), "settings": asdict(_settings(config, name))}
    return [sys.executable, "-m", "fledge.bench.subject", json.dumps(content)]


def _peer(verb: str, content: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "fledge.bench._hf_peer", verb, json.dumps(content)]


def _once(verb: str, content: dict[str, Any]) -> dict[str, Any]:
    lines: list[dict[str, Any]] = []
    with _child(_peer(verb, content)) as child:
        assert child.stdout  # noqa: S101 (opened as a pipe)
        lines += [json.loads(line) for line in child.stdout]
    return lines[0] if lines else {}


def _measure(command: list[str], told: Callable[[int], None]) -> Measured:
    rounds: list[Round] = []
    with _child(command) as child, _peak_memory(child.pid) as peak:
        assert child.stdout  # noqa: S101 (opened as a pipe)
        for line in child.stdout:
            rounds.append(Round(**json.loads(line)))
            told(len(rounds))
    return Measured(rounds, peak[0])


@contextmanager
def _child(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process of ours that must end well, and does not outlive us."""
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as child,
    ):
        try:
            yield child
            if child.wait():
                said.seek(0)
                last = said.read().strip().splitlines()[-1:] or ["no message"]
                raise FledgeError(f"a measured process ended with {child.returncode}: {last[0]}")
        finally:
            child.kill()


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """Samples the proportional memory of a process and its children; the list holds the highest sum in bytes."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        process = psutil.Process(pid)
        while not done.wait(0.5):
            try:
                now = sum(item.memory_full_info().pss for item in [process, *process.children(recursive=True)])
            except psutil.Error:  # it has just ended
                continue
            peak[0] = max(peak[0], now)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
