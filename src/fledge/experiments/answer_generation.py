"""Second step of an experiment: generate and grade the answers that the journal does not have."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fledge.core.texts import counted
from fledge.core.types import Say
from fledge.engines.engine import Engine
from fledge.experiments.askers import Asker, PromptAsker
from fledge.experiments.cell_runner import ask
from fledge.experiments.journal import ExperimentPlan, Journal
from fledge.experiments.progress import AnswerProgress, LiveProgress
from fledge.scoring.judge import Judge, describe_counts, judge_scorer, same_model

if TYPE_CHECKING:
    from fledge.experiments.cells import Cell


def generate_answers(
    journal: Journal,
    engines: Mapping[str, Engine],
    chains: Mapping[str, Any],
    progress: AnswerProgress | None,
    say: Say,
) -> None:
    """Append the missing answers and grades to the journal. Raises `FledgeError` if an engine or the judge is lost."""
    plan, config = journal.plan, journal.plan.config
    ungraded, unanswered = journal.ungraded(), journal.unanswered()
    if unanswered:
        say(_describe_work(unanswered, plan))
    cells = [*unanswered, *(cell for cell, _ in ungraded)]
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
    pending = {cell.key for cell in cells}
    before = [answer for answer in journal.latest() if answer.key not in pending]
    failed = sum(bool(answer.error) for answer in before)
    live = LiveProgress(
        progress or (lambda *_: None), list(engines.values()), len(before), len(before) + len(cells), failed
    )
    with _close_judge(judge, journal), contextlib.closing(answers), live:
        for answer in answers:
            of_chain = (answer.completion_tokens or 0) if answer.arm in chains else 0
            live.count(failed=bool(answer.error), tokens=of_chain)
    _report_scorer_errors(journal, say)
    if config.judging.judge and (counts := journal.judge_counts):
        say(describe_counts(counts))


def _describe_work(cells: Sequence["Cell"], plan: ExperimentPlan) -> str:
    """Return a summary of the work, for example `asking for 12 answers: 6 questions x 2 arms`."""
    longest = {arm.name: arm.generation.max_tokens for arm in plan.arms if arm.prompt}
    most = sum(longest.get(cell.arm, 0) for cell in cells)
    tokens = f", at most {most:,} tokens" if most else ""
    questions, arms = len({cell.question.id for cell in cells}), len({cell.arm for cell in cells})
    whole = len(cells) == questions * arms * plan.config.samples  # else it resumes, or some are reused
    samples = f" x {plan.config.samples} samples" if plan.config.samples > 1 else ""
    extent = f": {counted(questions, 'question')} x {counted(arms, 'arm')}{samples}" if whole else ""
    return f"asking for {counted(len(cells), 'answer')}{extent}{tokens}"


def _build_askers(
    plan: ExperimentPlan, engines: Mapping[str, Engine], chains: Mapping[str, Any]
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


def _build_chain_asker(chain: Any, plan: ExperimentPlan) -> Asker:
    from fledge.experiments._mlflow_capture import capture_traces, create_tracer
    from fledge.experiments.chain_asker import ChainAsker

    return ChainAsker(chain.with_config(callbacks=[create_tracer()]), capture_traces(plan.run_id, plan.experiment_id))


def _open_judge(plan: ExperimentPlan, say: Say) -> Judge | None:
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
def _close_judge(judge: Judge | None, journal: Journal) -> Iterator[None]:
    """Stop the judge at the end and store its counts in the journal."""
    try:
        yield
    finally:
        if judge:
            judge.stop()
            journal.add_judge_counts(judge.counts)


def _report_scorer_errors(journal: Journal, say: Say) -> None:
    failed = [(name, text) for answer in journal.latest() for name, text in answer.score_errors.items()]
    for name, count in Counter(name for name, _ in failed).items():
        last = next(text for other, text in reversed(failed) if other == name)
        say(f"scorer {name} failed; answers without that score: {count}; last error: {last}")
