"""`run_experiment` and `resume_experiment`: run all arms on all questions and record the results."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.network import without_password
from fledge.core.settings import Workspace
from fledge.core.texts import counted
from fledge.core.types import Say, silent
from fledge.engines import selection
from fledge.engines.engine import Engine, EngineGoneError
from fledge.experiments.arms import (
    Arm,
    build_arms,
    build_chain_arms,
    check_room,
    check_variables,
    default_prompt,
    select_arms,
)
from fledge.experiments.askers import Asker, PromptAsker
from fledge.experiments.cell_runner import ask
from fledge.experiments.checks import check_metric, check_questions
from fledge.experiments.config import ArmConfig, ExperimentConfig, planned_metric
from fledge.experiments.engines import Engines, Models, check_unchanged, find_models, pin
from fledge.experiments.journal import ExperimentPlan, Journal
from fledge.experiments.progress import LiveProgress, Progress
from fledge.experiments.questions import select_questions
from fledge.experiments.recorder import AnswerRecorder, retry
from fledge.experiments.result import ArmResult, ExperimentResult
from fledge.experiments.reuse import reuse_answers
from fledge.experiments.run_ids import short_id
from fledge.experiments.shots import add_shots, draw_shots
from fledge.prompts.store import open_store
from fledge.questions.question_set import Question, QuestionSet
from fledge.scoring.judge import Judge, describe_counts, judge_scorer, same_model
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    from fledge.experiments._mlflow_record import ExperimentRecord
    from fledge.experiments.cells import Cell
    from fledge.prompts.prompt import PromptStore


INTERRUPTED_S = 1.0  # for the current batch; --resume sends it again


def run_experiment(
    config: ExperimentConfig | None = None,
    *,
    questions: QuestionSet | None = None,
    arms: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
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
    if config is None:
        config = ExperimentConfig.load({"prompts": ()} if chains else None)
    if not (config.prompts or config.arms or chains):
        raise InputError("the experiment has no prompts", hint="--prompts simple,expert")
    check_metric(config)
    question_set = select_questions(config, questions, say)
    config = replace(config, questions=question_set.source)  # with the version of an MLflow data set
    asked = select_arms(config)
    shots = draw_shots(config, asked, question_set, questions, say)
    models = find_models(config, asked, engine)  # before MLflow is loaded, which is slow
    say(f"asking {', '.join([*models, *chains])}; results go to {without_password(config.tracking)}")
    check_questions(config, question_set, len(asked) + len(chains), say)

    with contextlib.ExitStack() as stack:
        own_engines = stack.enter_context(Engines(config, models, engine, say))

        from fledge.experiments._mlflow_experiments import start_runs
        from fledge.experiments._mlflow_record import ExperimentRecord

        client = connect(config.tracking)
        store = open_store(client, say)
        config, built = _load_arms(config, asked, models, shots, store)
        check_variables(built, question_set)
        check_room(built, models)
        engines = own_engines.wait_ready()
        built = [pin(arm, models[arm.model], engines[arm.model]) for arm in built] + build_chain_arms(chains, built)
        started = {name: (models[name], engines[name].info) for name in models}
        state.ensure(config.state_dir / "experiments")  # fail before runs exist
        plan = start_runs(client, config, built, question_set, started, store)
        record = ExperimentRecord(client, plan, say)
        with _abort_on_error(record), own_engines:  # engines close first, which frees the CPU
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
    progress: Progress | None = None,
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
        with _abort_on_error(record), own_engines:  # engines close first, which frees the CPU
            record.resume()
            return _execute(record, journal, engines, chains, progress, say)


def _load_arms(
    config: ExperimentConfig,
    asked: Sequence[ArmConfig],
    models: Models,
    shots: Sequence[Question],
    store: "PromptStore",
) -> tuple[ExperimentConfig, list[Arm]]:
    """Return the arms with their prompts, and the configuration with default prompts filled in."""
    prompts = [store.load(arm.prompt or default_prompt(models[arm.model])) for arm in asked]
    if "" in config.prompts:
        config = replace(config, prompts=tuple(dict.fromkeys(prompt.name for prompt in prompts)))
    built = build_arms(config, asked, add_shots(config, asked, prompts, models, shots, store), models)
    if config.logprobs:
        built = [replace(arm, generation=replace(arm.generation, logprobs=True)) for arm in built]
    return config, built


def _execute(
    record: "ExperimentRecord",
    journal: "Journal",
    engines: Mapping[str, Engine],
    chains: Mapping[str, Any],
    progress: Progress | None,
    say: Say,
) -> ExperimentResult:
    """Generate the missing answers and record everything."""
    plan, config = journal.plan, journal.plan.config
    ungraded = journal.ungraded()
    unanswered = journal.unanswered()
    if unanswered:
        say(_describe_work(unanswered, plan))
    cells = [*unanswered, *(cell for cell, _ in ungraded)]
    recorder = AnswerRecorder(journal, record.send, record.sample)
    with _stop_on_error(recorder, journal, say):
        judge = _open_judge(plan, say) if cells else None
        answers = ask(
            cells,
            _build_askers(plan, engines, chains),
            journal.append,
            max_concurrency=config.max_concurrency,
            scorers=config.chosen_scorers,
            graders=[judge_scorer(judge)] if judge else (),
            ungraded={answer.key: answer for _, answer in ungraded},
        )
        waiting = {cell.key for cell in cells}
        before = [answer for answer in journal.latest() if answer.key not in waiting]
        failed = sum(bool(answer.error) for answer in before)
        live = LiveProgress(
            progress or (lambda *_: None), list(engines.values()), len(before), len(before) + len(cells), failed
        )
        with _close_judge(judge, journal), contextlib.closing(answers), live:
            for answer in answers:
                of_chain = (answer.completion_tokens or 0) if answer.arm in chains else 0
                live.count(failed=bool(answer.error), tokens=of_chain)
        _report_scorer_errors(journal, say)
        counts = journal.judge_counts if config.judging.judge else None
        if counts:
            say(describe_counts(counts))
        recorder.wait(config.tracking_timeout, say)
        retry(lambda: record.finish(journal.latest(), counts), journal, config.tracking_timeout, say)
        journal.mark_finished()
    recorder.stop()
    return replace(_build_result(journal), judge=counts)


def _describe_work(cells: Sequence["Cell"], plan: "ExperimentPlan") -> str:
    """Return a summary of the work, for example `asking for 12 answers: 6 questions x 2 arms`."""
    longest = {arm.name: arm.generation.max_tokens for arm in plan.arms if arm.prompt}
    most = sum(longest.get(cell.arm, 0) for cell in cells)
    tokens = f", at most {most:,} tokens" if most else ""
    questions, arms = len({cell.question.id for cell in cells}), len({cell.arm for cell in cells})
    complete = len(cells) == questions * arms * plan.config.samples  # false when resuming or reusing answers
    samples = f" x {plan.config.samples} samples" if plan.config.samples > 1 else ""
    extent = f": {counted(questions, 'question')} x {counted(arms, 'arm')}{samples}" if complete else ""
    return f"asking for {counted(len(cells), 'answer')}{extent}{tokens}"


def _build_askers(
    plan: "ExperimentPlan", engines: Mapping[str, Engine], chains: Mapping[str, Any]
) -> dict[tuple[str, int], Asker]:
    """Return the asker of each arm and sample; samples of one arm differ in their seed."""
    samples = range(plan.config.samples)
    found: dict[tuple[str, int], Asker] = {}
    for arm in plan.arms:
        if (prompt := arm.sent_prompt) is None:
            chain = _build_chain_asker(chains[arm.name], plan)
            found |= {(arm.name, sample): chain for sample in samples}
        elif arm.model in engines:
            found |= {
                (arm.name, sample): PromptAsker(prompt, engines[arm.model], arm.params(sample)) for sample in samples
            }
    return found


def _build_chain_asker(chain: Any, plan: "ExperimentPlan") -> Asker:
    from fledge.experiments._mlflow_capture import capture_traces, create_tracer
    from fledge.experiments.chain_asker import ChainAsker

    return ChainAsker(chain.with_config(callbacks=[create_tracer()]), capture_traces(plan.run_id, plan.experiment_id))


def _open_judge(plan: "ExperimentPlan", say: Say) -> Judge | None:
    """Return the judge that grades every answer, None without one."""
    judging = plan.config.judging
    if not judging.judge:
        return None
    from fledge.scoring._mlflow_judge import open_judge

    for model in dict.fromkeys(arm.model for arm in plan.arms):
        if warning := same_model(judging.judge, model):
            say(f"warning: {warning}")
    return open_judge(judging)


@contextlib.contextmanager
def _close_judge(judge: Judge | None, journal: "Journal") -> Iterator[None]:
    """Stop the judge at the end and store its counts in the journal."""
    try:
        yield
    finally:
        if judge:
            judge.stop()
            journal.add_judge_counts(judge.counts)


def _report_scorer_errors(journal: "Journal", say: Say) -> None:
    failed = [(name, text) for answer in journal.latest() for name, text in answer.score_errors.items()]
    for name, count in Counter(name for name, _ in failed).items():
        last = next(text for other, text in reversed(failed) if other == name)
        say(f"scorer {name} failed; answers without that score: {count}; last error: {last}")


def _build_result(journal: "Journal") -> ExperimentResult:
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
        with shield_from_interrupts(), contextlib.suppress(Exception):  # the tracking server may be what failed
            record.abort(status_after(error))
        raise


@contextlib.contextmanager
def _stop_on_error(recorder: "AnswerRecorder", journal: "Journal", say: Say) -> Iterator[None]:
    """Stop the recorder on an exception and say how to resume."""
    try:
        yield
    except BaseException as error:
        with shield_from_interrupts():
            if not isinstance(error, FledgeError) or isinstance(error, EngineGoneError):  # other errors have a hint
                answered = counted(len(journal.latest()), "answer")
                say(f"{answered} kept; resume with: fledge experiment --resume {short_id(journal.plan.run_id)}")
            recorder.stop(INTERRUPTED_S)
        raise
