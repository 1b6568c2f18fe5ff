"""`run_experiment` and `resume_experiment`: ask all questions of all arms, and record everything."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.settings import Workspace
from fledge.core.texts import counted
from fledge.core.types import Say, silent
from fledge.engines import selection
from fledge.engines.engine import Engine, EngineGoneError
from fledge.experiments.answer_generation import generate_answers
from fledge.experiments.config import ExperimentConfig, planned_metric
from fledge.experiments.engines import Engines, Models, check_unchanged
from fledge.experiments.journal import Journal
from fledge.experiments.preparation import prepare
from fledge.experiments.progress import AnswerProgress
from fledge.experiments.recorder import AnswerRecorder, retry
from fledge.experiments.result import ArmResult, ExperimentResult
from fledge.experiments.reuse import reuse_answers
from fledge.experiments.run_ids import short_id
from fledge.prompts.store import open_store
from fledge.questions.question_set import QuestionSet
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    from fledge.experiments._mlflow_record import ExperimentRecord


INTERRUPTED_S = 1.0  # for what is just being sent; it is sent again by --resume


def run_experiment(
    config: ExperimentConfig | None = None,
    *,
    questions: QuestionSet | None = None,
    arms: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    progress: AnswerProgress | None = None,
    say: Say = silent,
    reuse: bool = False,
) -> ExperimentResult:
    """Run every arm on every question and record runs, traces, tables and plots in MLflow.

    `questions` replace the question set of `config`. `arms` are custom LangChain runnables by name: each takes a
    question's columns as a dictionary and returns text or a message. They are added to the prompts of `config`; without
    a `config` they are the only arms. `progress(done, total, failed, tokens)` is called after each answer and twice a
    second, `say` before long work. With `reuse`, answers of identical cells in the state folder are not generated
    again. A started `engine` serves `config.model` and stays open. Raises `InputError` before anything is recorded.
    """
    chains = arms or {}
    preparation = prepare(config, questions, chains, engine, say)
    models = preparation.models
    with contextlib.ExitStack() as stack:
        own_engines = stack.enter_context(Engines(preparation.config, models, engine, say))

        from fledge.experiments._mlflow_experiments import start_runs
        from fledge.experiments._mlflow_record import ExperimentRecord

        client = connect(preparation.config.tracking)
        store = open_store(client, say)
        config, built = preparation.load_arms(store)
        engines = own_engines.wait_ready()
        built = preparation.pin_arms(built, engines)
        started = {name: (models[name], engines[name].info) for name in models}
        state.ensure(config.state_dir / "experiments")  # before there are runs that nothing could end
        plan = start_runs(client, config, built, preparation.questions, started, store)
        record = ExperimentRecord(client, plan, say)
        with _abort_on_error(record), own_engines:  # recording the rest needs no engine: they close first
            journal = Journal.create(plan)
            stack.callback(journal.close)
            if reuse:
                reuse_answers(journal, say)
            return _execute(record, journal, engines, chains, progress, say)


def resume_experiment(
    run_id: str,
    *,
    arms: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    workspace: Workspace | None = None,
    progress: AnswerProgress | None = None,
    say: Say = silent,
) -> ExperimentResult:
    """Resume an unfinished experiment from the journal in the state folder.

    `run_id` may be a prefix, or `last` for the newest unfinished one. Only cells without an answer or with a transient
    error run again. Answers missing in MLflow are sent. `arms` are the custom chains that it was started with. Raises
    `InputError` for an unknown experiment.
    """
    chains = arms or {}

    from fledge.experiments._mlflow_record import ExperimentRecord

    workspace = workspace or Workspace()
    with contextlib.ExitStack() as stack:
        journal = Journal.open(workspace, run_id)
        stack.callback(journal.close)
        plan = journal.plan
        if run_id != plan.run_id:
            say(f"resuming experiment {plan.run_id}")
        missing = [arm.name for arm in plan.arms if arm.prompt is None and arm.name not in chains]
        if missing:
            raise InputError(
                f"{', '.join(missing)}: custom chains cannot be restored from the journal",
                hint="fledge.resume_experiment(run_id, arms={...}) from Python, with the same chains",
            )
        record = ExperimentRecord(connect(workspace.tracking), plan, say)
        models: Models = {}
        if journal.unanswered():
            models = {arm.model: selection.find(arm.model, workspace) for arm in plan.arms if arm.prompt}
        own_engines = stack.enter_context(Engines(plan.config, models, engine, say))
        engines = own_engines.wait_ready()
        if models:
            check_unchanged(plan, models, engines)
        with _abort_on_error(record), own_engines:
            record.resume()
            return _execute(record, journal, engines, chains, progress, say)


def _execute(
    record: "ExperimentRecord",
    journal: Journal,
    engines: Mapping[str, Engine],
    chains: Mapping[str, Any],
    progress: AnswerProgress | None,
    say: Say,
) -> ExperimentResult:
    """Generate the missing answers while they are recorded, then record tables and metrics."""
    config = journal.plan.config
    recorder = AnswerRecorder(journal, record.send, record.sample)
    with _stop_on_error(recorder, journal, say):
        generate_answers(journal, engines, chains, progress, say)
        counts = journal.judge_counts if config.judging.judge else None
        recorder.wait(config.tracking_timeout, say)
        retry(lambda: record.finish(journal.latest(), counts), journal, config.tracking_timeout, say)
        journal.mark_finished()
    recorder.stop()
    return replace(_build_result(journal), judge=counts)


def _build_result(journal: Journal) -> ExperimentResult:
    from fledge.comparison.warnings import find_warnings
    from fledge.experiments.tables import arm_metrics, build_table, scores_of

    plan, answers = journal.plan, journal.latest()
    table = build_table(plan, answers)
    arms = tuple(
        ArmResult(arm.name, arm.label, arm.model, arm.digest, arm_metrics(table[table["arm"] == arm.name]), arm.format)
        for arm in plan.arms
    )
    failed = sum(bool(answer.error) for answer in answers)
    metric = planned_metric(plan.config, plan.questions)
    return ExperimentResult(
        plan.run_id,
        len(answers),
        failed,
        arms,
        metric=metric,
        warnings=find_warnings(scores_of(table)),
        workspace=plan.config,
    )


@contextlib.contextmanager
def _abort_on_error(record: "ExperimentRecord") -> Iterator[None]:
    """End all runs on an exception: as KILLED after an interruption, as FAILED after an error."""
    from fledge.tracking._mlflow_connection import status_after

    try:
        yield
    except BaseException as error:
        with (
            shield_from_interrupts(),
            contextlib.suppress(Exception),
        ):  # it may be the tracking server that is the error
            record.abort(status_after(error))
        raise


@contextlib.contextmanager
def _stop_on_error(recorder: "AnswerRecorder", journal: "Journal", say: Say) -> Iterator[None]:
    """Stop the recorder on an exception and say how to resume."""
    try:
        yield
    except BaseException as error:
        with shield_from_interrupts():
            if not isinstance(error, FledgeError) or isinstance(error, EngineGoneError):  # others say it themselves
                kept = counted(len(journal.latest()), "answer")
                say(f"{kept} kept; resume with: fledge experiment --resume {short_id(journal.plan.run_id)}")
            recorder.stop(INTERRUPTED_S)
        raise
