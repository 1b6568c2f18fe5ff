"""`bench_serve`: fledge's endpoint under load, compared with alternative servers in the same run."""

import socket
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from fledge.bench import fledge_servers, guidellm, peers
from fledge.bench.environments import pinned
from fledge.bench.guard import guarded
from fledge.bench.load_client import LoadTarget
from fledge.bench.loads import Load, LoadSample, Slo, figures
from fledge.bench.measured_models import MODEL_HELP, MeasuredModel, find_models
from fledge.bench.processes import START_S, run
from fledge.bench.ratios import costs, over_engine, ratios
from fledge.bench.reporter import Reporter
from fledge.bench.servers import ServerCommand, running
from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace, option, out_of_range
from fledge.core.types import Progress, Say, no_progress, silent
from fledge.engines import machine
from fledge.engines.settings import EngineSettings

MAX_BUSY = 0.15
SEED = 0


@dataclass(frozen=True)
class ServeBenchConfig(EngineSettings):
    """Settings of `bench_serve`."""

    experiment_name: str = option("fledge-bench", "MLflow experiment", env="EXPERIMENT_NAME")
    model: str = option("", MODEL_HELP)
    subjects: tuple[str, ...] = option(
        tuple(fledge_servers.MODES), "fledge in mode fast (fledge) and exact (fledge-exact)"
    )
    peers: tuple[str, ...] = option(tuple(peers.PEERS), "servers to measure against; each is installed once")
    loads: tuple[int, ...] = option((1, 4, 16, 64), "clients of closed loops: each sends a request after each answer")
    rates: tuple[float, ...] = option((2.0, 5.0), "requests/s of open loops, at random times")
    seconds: float = option(20.0, "seconds for which each load sends requests; pending answers are awaited")
    repeats: int = option(1, "times that every server is started and measured, in alternating order")
    tokens: int = option(32, "exact number of new tokens of each answer")
    prompt_characters: int = option(32, "characters of each prompt; prompts are random and unique")
    timeout_s: float = option(300.0, "timeout of a request, in seconds")
    slo_ttft_s: float = option(2.0, "maximum seconds to the first token, for goodput")
    slo_latency_s: float = option(6.0, "maximum latency in seconds, for goodput")
    check: Literal["none", "guidellm"] = option("none", "guidellm: measure fledge with GuideLLM too, at 16 clients")

    def problems(self) -> list[str]:
        found = super().problems() + out_of_range(
            self,
            *(("seconds", 1, 3600), ("repeats", 1, 100), ("tokens", 1, 4096), ("prompt_characters", 8, 100_000)),
            *(("timeout_s", 1, 3600), ("slo_ttft_s", 0, 3600), ("slo_latency_s", 0, 3600)),
        )
        if not all(1 <= load <= 512 for load in self.loads) or not all(0 < rate <= 1000 for rate in self.rates):
            found.append(f"loads must be from 1 to 512 and rates up to 1000, not {self.loads} and {self.rates}")
        if not self.loads + self.rates:
            found.append("loads and rates are both empty: name at least one")
        for what, chosen, known in (
            ("subjects", self.subjects, fledge_servers.MODES),
            ("peers", self.peers, peers.PEERS),
        ):
            unknown = sorted(set(chosen) - set(known))
            if unknown:
                found.append(f"{what} are {', '.join(known)}, not {', '.join(unknown)}")
        if not self.subjects:
            found.append(f"subjects are {', '.join(fledge_servers.MODES)}: name at least one")
        return found

    @property
    def plan(self) -> list[Load]:
        """The loads in ascending order, so that an overload does not affect smaller loads."""
        closed = [Load("closed", size, self.seconds) for size in sorted(set(self.loads))]
        return [*closed, *(Load("open", rate, self.seconds) for rate in sorted(set(self.rates)))]


@dataclass(frozen=True)
class ServeBenchResult:
    """`rows` has one entry for each model, server or engine in process, and load.

    `peers` has the figures of whole servers. `ratios` is fledge's requests/s divided by the peer's, by model, subject,
    peer and clients; `costs` is fledge's costs divided by the peer's; `http_over_engine` is an endpoint's requests/s
    divided by its engine's in process. `notes` says what was not measured, and why.
    """

    machine: dict[str, Any]
    models: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    peers: list[dict[str, Any]]
    ratios: dict[str, dict[str, dict[str, dict[str, float | None]]]]
    costs: dict[str, dict[str, dict[str, Any]]]
    http_over_engine: dict[str, dict[str, dict[str, float | None]]]
    check: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    run_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Visit(NamedTuple):
    """One start of a server or engine: samples and peak memory (bytes) of each load."""

    samples: list[list[LoadSample]]
    memory_bytes: list[int]
    ready_seconds: float | None = None


def bench_serve(config: ServeBenchConfig, progress: Progress = no_progress, say: Say = silent) -> ServeBenchResult:
    """Start each server in turn, put the loads on it, stop it, and record all figures in MLflow.

    `progress(done, total, what)` is called after each load and every few seconds. A server that cannot be installed or
    started becomes a note. Raises `FledgeError` if all of them fail.
    """
    about = {**machine.describe(), "busy": psutil.cpu_percent(interval=1.0) / 100}
    if about["busy"] > MAX_BUSY:
        say(f"other programs use {about['busy']:.0%} of this machine's CPU, which lowers the figures")
    notes: list[str] = []
    with (
        guarded(),
        tempfile.TemporaryDirectory(prefix="fledge-bench-") as temporary,
        Reporter(progress, say) as reporter,
    ):
        models = find_models(config.model, config, reporter.say, notes)
        for model in models:
            _check_context(config, model)
        visits = len(models) * (len(config.peers) + 2 * len(config.subjects)) * config.repeats
        reporter.total = visits * len(config.plan)
        benches = {}
        for model in models:
            folder = state.ensure(Path(temporary) / model.name)
            benches[model.name] = bench = _Bench(config, model, folder, reporter, notes)
            bench.run()
    rows = {name: bench.rows() for name, bench in benches.items()}
    if not any(rows.values()):
        raise FledgeError("nothing could be measured: " + "; ".join(notes))
    servers = {name: bench.servers() for name, bench in benches.items()}
    result = ServeBenchResult(
        about,
        [model.describe() for model in models],
        [row for found in rows.values() for row in found],
        [server for found in servers.values() for server in found],
        {name: ratios(rows[name], config.subjects, config.peers) for name in benches},
        {name: costs(rows[name], servers[name], config.subjects, config.peers) for name in benches},
        {name: over_engine(rows[name], fledge_servers.ENGINES) for name in benches},
        next((bench.check for bench in benches.values() if bench.check), None),
        notes,
    )

    from fledge.bench._mlflow_runs import record_serving

    return replace(result, run_id=record_serving(config, result))


def _check_context(config: ServeBenchConfig, model: MeasuredModel) -> None:
    tokens = len(model.around.before) + config.prompt_characters + len(model.around.after) + config.tokens
    if tokens > model.snapshot.context:
        raise InputError(
            f"the context window of {model.snapshot.source} has only {model.snapshot.context} tokens",
            hint="lower --prompt-characters or --tokens",
        )


class _Bench:
    """Runs and collects the measurements of one model's servers."""

    def __init__(
        self, config: ServeBenchConfig, model: MeasuredModel, folder: Path, reporter: Reporter, notes: list[str]
    ) -> None:
        self.config, self.model, self.folder = config, model, folder
        self.reporter, self.say, self.notes = reporter, reporter.say, notes
        self.check: dict[str, Any] | None = None
        self.visits: dict[str, list[Visit]] = {}
        self._workspace: Workspace | None = None

    def run(self) -> None:
        if self.config.check == "guidellm":
            with self._note_failure(guidellm.PACKAGE):  # before anything is measured
                guidellm.install(self.config.state_dir, self.say)
        visitors: dict[str, Callable[[Path], Visit]] = {
            name: partial(self._measure_peer, name) for name in self.config.peers
        }
        for name in self.config.subjects:
            with self._note_failure(name):
                fledge_servers.export(self.config, name, self.model.snapshot, self.say)
                visitors[fledge_servers.ENGINES[name]] = partial(self._measure_engine, name)
                visitors[name] = partial(self._measure_subject, name)
        for number in range(self.config.repeats):
            for name in list(visitors)[:: -1 if number % 2 else 1]:
                if number and name not in self.visits:
                    continue  # it has failed before
                with self._note_failure(name):
                    self.reporter.begin(f"{self.model.name}, {name}: starting")
                    visit = visitors[name](state.ensure(self.folder / f"{name}-{number}"))
                    self.visits.setdefault(name, []).append(visit)

    @contextmanager
    def _note_failure(self, name: str) -> Iterator[None]:
        """Turn a failure into a note, so that the other servers are still measured."""
        try:
            yield
        except FledgeError as error:
            self.notes.append(f"{name} is left out for {self.model.name}: {error.message}")
            self.say(self.notes[-1])

    def rows(self) -> list[dict[str, Any]]:
        slo = Slo(self.config.slo_ttft_s, self.config.slo_latency_s)
        found = []
        for name, visits in self.visits.items():
            for place, load in enumerate(self.config.plan):
                found.append(
                    {
                        "model": self.model.name,
                        "peer": name,
                        "loop": load.loop,
                        "load": load.size,
                        **figures([visit.samples[place] for visit in visits], slo)._asdict(),
                        "memory_bytes": max(visit.memory_bytes[place] for visit in visits),
                    }
                )
        return found

    def servers(self) -> list[dict[str, Any]]:
        found = []
        for name, visits in self.visits.items():
            ready = [visit.ready_seconds for visit in visits if visit.ready_seconds is not None]
            packages = peers.PEERS[name].packages if name in peers.PEERS else ("fledge",)
            found.append(
                {
                    "model": self.model.name,
                    "peer": name,
                    "packages": [pinned(package) for package in packages],
                    "ready_seconds": statistics.median(ready) if ready else None,
                    "memory_bytes": max(peak for visit in visits for peak in visit.memory_bytes),
                }
            )
        return found

    def _measure_peer(self, name: str, folder: Path) -> Visit:
        place = self._make_place(folder)
        return self._measure_server(name, peers.find_command(name, place, self.config.state_dir, self.say), folder)

    def _measure_subject(self, name: str, folder: Path) -> Visit:
        if self._workspace is None:
            own = state.ensure(self.folder / "workspace")
            self._workspace = fledge_servers.release(self.config, self.model.snapshot, own, self.say)
        place = self._make_place(folder)
        command = fledge_servers.serve_command(self.config, name, self._workspace, place)
        return self._measure_server(name, command, folder)

    def _measure_engine(self, name: str, _folder: Path) -> Visit:
        command = fledge_servers.engine_command(self.config, name, self.model, self._make_plan(), self.config.tokens)
        measured = run(command, self._deadline_s, partial(self._report_step, fledge_servers.ENGINES[name]))
        return Visit(_read_samples(measured.lines), [measured.memory_bytes] * len(measured.lines))

    def _measure_server(self, name: str, command: ServerCommand, folder: Path) -> Visit:
        memory: list[int] = []
        with running(command, folder / "log.txt") as server:

            def count_load(count: int) -> None:
                memory.append(server.memory.take())
                self._report_step(name, count)

            measured = run(fledge_servers.load_command(command.target, self._make_plan()), self._deadline_s, count_load)
            if self.config.check == "guidellm" and name == self.config.subjects[0] and self.check is None:
                self._check_with_guidellm(name, command.target)
            return Visit(_read_samples(measured.lines), memory, server.ready_seconds)

    def _check_with_guidellm(self, name: str, target: LoadTarget) -> None:
        """Measure one more load with our client, then with GuideLLM."""
        slo = Slo(self.config.slo_ttft_s, self.config.slo_latency_s)
        plan = self._make_plan([Load("closed", guidellm.CLIENTS, self.config.seconds)], SEED + 1)
        samples = _read_samples(run(fledge_servers.load_command(target, plan), self._deadline_s).lines)
        ours = figures(samples, slo).requests_per_s
        size = (self.config.prompt_characters, len(samples[0]))
        with self._note_failure(guidellm.PACKAGE):
            theirs = guidellm.requests_per_s(target, self.model.snapshot.path, *size, self.config.state_dir, self.say)
            self.check = {
                "tool": guidellm.PACKAGE,
                "model": self.model.name,
                "peer": name,
                "load": guidellm.CLIENTS,
                "requests_per_s": theirs,
                "own_requests_per_s": ours,
                "ratio": ours / theirs,
            }

    def _make_plan(self, loads: Sequence[Load] | None = None, seed: int = SEED) -> dict[str, Any]:
        found = self.config.plan if loads is None else loads
        return {
            "loads": [asdict(load) for load in found],
            "characters": self.config.prompt_characters,
            "seed": seed,
        }

    @property
    def _deadline_s(self) -> float:
        """The deadline of a load in seconds, with its warm-up."""
        return START_S + self.config.seconds + 2 * self.config.timeout_s

    def _make_place(self, folder: Path) -> peers.Place:
        device = "cuda" if machine.has_gpu() and self.config.device != "cpu" else "cpu"
        config, model = self.config, self.model
        return peers.Place(
            model.snapshot.path, folder, _free_port(), device, config.tokens, config.timeout_s, model.chat
        )

    def _report_step(self, name: str, count: int) -> None:
        plan = self.config.plan
        self.reporter.step(f"{self.model.name}, {name}, {plan[min(count, len(plan) - 1)].label}")


def _read_samples(lines: Sequence[Mapping[str, Any]]) -> list[list[LoadSample]]:
    return [[LoadSample(*values) for values in line["samples"]] for line in lines]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
