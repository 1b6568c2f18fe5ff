"""`run_demo`: an end-to-end run of a model with the public API only."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import fledge
from fledge.client.checks import Check
from fledge.comparison.findings import Comparison
from fledge.comparison.options import CompareOptions
from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.network import without_password
from fledge.core.settings import Workspace, load
from fledge.demo.prompts import PROMPTS
from fledge.engines import selection
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.questions import select_questions
from fledge.experiments.result import ExperimentResult
from fledge.models import smollm2
from fledge.monitoring.health import Health, summarize
from fledge.questions.question_set import QuestionSet
from fledge.registry.release import ReleaseConfig
from fledge.serving.outbox_reader import read_outbox
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import check_port
from fledge.tracking.connection import connect

DEFAULT_QUESTIONS = 24
MAX_TOKENS = 320  # per answer; few are longer
TRACES_TIMEOUT_S = 60.0

# Seconds per stage on a machine with two cores, for the estimate of the remaining time.
ESTIMATES = {
    "model": 20.0,
    "store": 5.0,
    "experiment": 40.0,
    "compare": 2.0,
    "register": 5.0,
    "promote": 3.0,
    "serve": 6.0,
    "test": 6.0,
    "traces": 4.0,
    "report": 1.0,
    "stop": 2.0,
}


class DemoStage(NamedTuple):
    """A finished stage and its duration in seconds."""

    name: str
    ok: bool
    seconds: float


class DemoListener(NamedTuple):
    """Callbacks: `started(stage, seconds_left)`, `ended(stage, summary)`, and `cells` for experiment progress."""

    started: Callable[[str, float], None]
    ended: Callable[[DemoStage, str], None]
    cells: Callable[[int, int, int, int], None]


@dataclass
class DemoResult:
    """Result of the demo, filled in stage by stage."""

    stages: list[DemoStage] = field(default_factory=list)
    experiment: ExperimentResult | None = None
    comparison: Comparison | None = None
    model_name: str = ""
    model_version: int | None = None
    promotion: str = ""
    url: str = ""
    checks: list[Check] = field(default_factory=list)
    traces: int = 0
    health: Health | None = None
    answers: list[dict[str, Any]] = field(default_factory=list)
    report: str = ""
    model: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "stages": [stage._asdict() for stage in self.stages],
            "experiment_run_id": self.experiment.run_id if self.experiment else None,
            "verdicts": [asdict(pair) for pair in self.comparison.pairs] if self.comparison else [],
            "model_name": self.model_name,
            "model_version": self.model_version,
            "url": self.url,
            "traces": self.traces,
            "report": self.report,
        }


def run_demo(
    *,
    home: Path | None = None,
    model: str | None = None,
    questions: str = "default",
    port: int | None = None,
    keep_serving: bool = False,
    listener: DemoListener | None = None,
) -> DemoResult:
    """Take a model from an experiment to a served, traced endpoint, and write a report.

    The default model is SmolLM2, or the embedded model if SmolLM2 cannot be fetched. Data goes to `home`, or where the
    settings say. Raises `InputError` for invalid questions or a port in use before it writes anything. Leaves no
    process behind after an error or an interrupt.
    """
    serving = _serve_config(home, port)
    workspace = Workspace(serving.tracking_uri, serving.state, serving.cache)
    limit = DEFAULT_QUESTIONS if questions == "default" else 0
    config = replace(
        ExperimentConfig.load(
            {"model": model or smollm2.NAME, "questions": questions, "limit": limit, "max_tokens": MAX_TOKENS}
        ),
        tracking_uri=serving.tracking_uri,
        state=serving.state,
        cache=serving.cache,
    )
    question_set = select_questions(config)
    folder = home or Path.cwd()
    state.check_writable(folder)
    state.check_writable(workspace.state_dir)
    check_port(serving)
    result = DemoResult()
    with contextlib.ExitStack() as cleanup:
        stage = _Stages(result, listener)
        config = _make_release(result, stage, config, question_set, cleanup, may_fall_back=model is None)
        _serve_release(result, stage, config, serving, question_set, folder, keep_serving, cleanup)
    return result


def _serve_config(home: Path | None, port: int | None) -> ServeConfig:
    flags: dict[str, Any] = {"port": port}
    if home is not None:
        home = home.absolute()
        flags |= {"tracking_uri": f"sqlite:///{home / 'mlflow.db'}", "state": str(home / ".fledge")}
    return load(ServeConfig, flags).value


class _Stages:
    """Times the stages and notifies the listener."""

    def __init__(self, result: DemoResult, listener: DemoListener | None) -> None:
        self._life = result
        self.listener = listener

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[list[str]]:
        names = list(ESTIMATES)
        if self.listener:
            self.listener.started(name, sum(ESTIMATES[later] for later in names[names.index(name) :]))
        words: list[str] = []
        started = time.monotonic()
        ok = False
        try:
            yield words
            ok = True
        finally:
            stage = DemoStage(name, ok, round(time.monotonic() - started, 3))
            self._life.stages.append(stage)
            if self.listener:
                self.listener.ended(stage, " ".join(words))


def _make_release(
    result: DemoResult,
    stage: _Stages,
    config: ExperimentConfig,
    question_set: QuestionSet,
    cleanup: contextlib.ExitStack,
    *,
    may_fall_back: bool,
) -> ExperimentConfig:
    with stage("model") as words:
        try:
            model = selection.find_snapshot(config.model, config)
        except FledgeError as error:
            if not may_fall_back:
                raise
            words.append(f"{error.message}; using the embedded model instead, which only repeats its training answers:")
            config = replace(config, model="embedded")
            model = selection.find_snapshot(config.model, config)
        if model.has_chat_template:
            config = replace(config, prompts=tuple(prompt.name for prompt in PROMPTS))
        result.model, result.model_name = config.model, load(ReleaseConfig).value.name_for(config.model)
        engine = selection.start(config, model)
        cleanup.callback(engine.close)
        words.append(f"{model.architecture}, {model.size / 1e6:.1f} MB, on {engine.info.name}: {engine.info.reason}")
    with stage("store") as words:
        connect(config.tracking)
        if model.has_chat_template:
            store = fledge.open_prompts(workspace=config)
            for draft in PROMPTS:
                store.register(draft)
        words.append(without_password(config.tracking))
    with stage("experiment") as words:
        progress = stage.listener.cells if stage.listener else None
        result.experiment = fledge.run_experiment(config, engine=engine, progress=progress)
        words.append(
            f"{len(question_set.questions)} questions x {len(config.prompts)} prompts: "
            f"{result.experiment.cells} answers, {result.experiment.failed} failed"
        )
    with stage("compare") as words:
        result.comparison = _compare(config, result.experiment, question_set)
        result.answers = _load_answers(config, result.experiment.run_id)
        words.append(f"winner: {result.comparison.winner or 'none'}")
    with stage("register") as words:
        release = fledge.register(config, name=result.model_name, run_id=result.experiment.run_id)
        result.model_version = release.version
        words.append(f"{release.name} version {release.version}")
    with stage("promote") as words:
        result.promotion = _promote(config, result, question_set)
        words.append(f"champion: {result.promotion}")
    return config


def _serve_release(
    result: DemoResult,
    stage: _Stages,
    config: ExperimentConfig,
    serving: ServeConfig,
    question_set: QuestionSet,
    folder: Path,
    keep_serving: bool,
    cleanup: contextlib.ExitStack,
) -> None:
    with stage("serve") as words:
        stopping = cleanup.enter_context(contextlib.ExitStack())
        stopping.callback(_stop_if_running, serving)
        endpoint = fledge.serve(f"{result.model_name}@champion", config=serving)
        result.url = endpoint.url
        words.append(f"{endpoint.url}, ready after {endpoint.ready_seconds:.1f} s")
    with stage("test") as words:
        result.checks = _check_endpoint(endpoint.url, question_set)
        words.append(f"{len(result.checks)} checks passed")
    with stage("traces") as words:
        result.traces = _await_traces(config, result)
        result.health = summarize(read_outbox(Path(endpoint.folder) / "outbox"))
        words.append(f"{result.traces} served answers are in MLflow")
    with stage("report") as words:
        from fledge.demo.report import write_report

        result.report = str(write_report(result, folder / "fledge-report.html"))
        words.append(result.report)
    with stage("stop") as words:
        if keep_serving:
            stopping.pop_all()
            words.append(f"left running: {result.url}")
        else:
            stopping.close()
            words.append("stopped")


def _compare(config: ExperimentConfig, experiment: ExperimentResult, question_set: QuestionSet) -> Comparison:
    metric = "token_f1" if _has_references(question_set) else "response_length"
    return fledge.compare(experiment.run_id, options=CompareOptions(metric=metric), workspace=config)


def _has_references(question_set: QuestionSet) -> bool:
    return any(item.reference for item in question_set.questions)


def _promote(config: ExperimentConfig, result: DemoResult, question_set: QuestionSet) -> str:
    """Promote by evidence if there is a winner, else by force; returns the reason."""
    comparison, version = result.comparison, result.model_version
    if comparison is None or version is None or result.experiment is None:
        raise FledgeError("there is no comparison or release to promote")
    if comparison.winner and _has_references(question_set):
        fledge.promote(result.model_name, version, evidence=result.experiment.run_id, workspace=config)
        return f"by evidence, {comparison.winner} is better than {comparison.baseline}"
    what = "no prompt has won yet" if _has_references(question_set) else "the questions have no references to judge by"
    reason = f"{what}; the demo serves {comparison.leader}"
    fledge.promote(result.model_name, version, force=True, reason=reason, workspace=config)
    return f"by force, {reason}"


def _check_endpoint(url: str, question_set: QuestionSet) -> list[Check]:
    checks = fledge.check_endpoint(
        url, key=os.environ.get("FLEDGE_API_KEY"), question=question_set.questions[0].question
    )
    failed = [check for check in checks if not check.passed]
    if failed:
        raise FledgeError(f"the endpoint failed its check {failed[0].name!r}: {failed[0].detail}")
    return checks


def _stop_if_running(serving: ServeConfig) -> None:
    if any(item.url.endswith(f":{serving.port}") for item in fledge.status(workspace=serving)):
        with shield_from_interrupts():
            fledge.stop(serving.port, workspace=serving)


def _await_traces(config: ExperimentConfig, result: DemoResult) -> int:
    """Wait until the recorder has shipped the answers just served; returns their number."""
    from fledge.monitoring._mlflow_requests import count_traces

    served = [check.request_id for check in result.checks if check.request_id]
    deadline = time.monotonic() + TRACES_TIMEOUT_S
    while time.monotonic() < deadline:
        count = count_traces(config.tracking, result.model_name, served)
        if count == len(served):
            return count
        time.sleep(0.3)
    raise FledgeError(
        f"only {count} of {len(served)} served answers reached MLflow in {TRACES_TIMEOUT_S:.0f} s", hint="fledge status"
    )


def _load_answers(config: ExperimentConfig, run_id: str) -> list[dict[str, Any]]:
    """Return the rows of the experiment's table for the report."""
    from fledge.experiments._mlflow_experiments import load_table

    table = load_table(connect(config.tracking), run_id)
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
