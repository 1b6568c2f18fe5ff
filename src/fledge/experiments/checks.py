"""Checks of an experiment before any answer is generated."""

from collections.abc import Iterator

import regex

from fledge.comparison.topics import warn_few_topics
from fledge.core.errors import InputError
from fledge.core.texts import counted
from fledge.core.types import Say
from fledge.experiments.config import ExperimentConfig
from fledge.questions.layout import column_flags
from fledge.questions.question_set import QuestionSet
from fledge.questions.rows import find_lookalike
from fledge.scoring.catalogue import BUILT_IN, PATTERN, RECORDED
from fledge.scoring.judge import JUDGE, PREFERENCE
from fledge.scoring.scorer import Response
from fledge.scoring.short_answers import suitable_scorer


def check_metric(config: ExperimentConfig) -> None:
    """Raise `InputError` for a metric that the experiment does not compute."""
    scored = {item.name for item in config.chosen_scorers}
    graded = {JUDGE} if config.judging.judge else set()
    if config.metric and config.metric not in {*scored, *graded, *RECORDED, PREFERENCE}:
        hint = "--judge URL#NAME" if config.metric == JUDGE else f"--scorers {config.metric}, or another --metric"
        raise InputError(f"--metric {config.metric} is not scored in this experiment", hint=hint)


def check_questions(config: ExperimentConfig, questions: QuestionSet, arms: int, say: Say) -> None:
    """Report by `say` what weakens a comparison of `arms` arms. Raises `InputError` as `check_references` does."""
    check_references(config, questions)
    if config.limit == len(questions.questions):
        say(f"{counted(config.limit, 'question')} drawn evenly over topics (--limit); --order-seed N draws others")
    for note in list_notes(config, questions, arms):
        say(note)


def check_references(config: ExperimentConfig, questions: QuestionSet) -> None:
    """Raise `InputError` if the planned metric fits no reference, or a question has an invalid pattern."""
    for item in questions.questions:
        try:
            regex.compile(item.columns.get(PATTERN, ""))
        except (regex.error, RecursionError, OverflowError) as error:
            what = f"question {item.id!r} of {questions.source}: invalid regular expression in {PATTERN}: {error}"
            raise InputError(what, hint="fix it in the question set") from None
    metric = BUILT_IN.get(config.metric)
    if metric is None or metric.name == PATTERN or set(metric.needs) != {"answer", "reference"}:
        return
    references = [item.reference for item in questions.questions if item.reference]
    if not any(metric(Response(reference, reference=reference)) is not None for reference in references):
        what = f"--metric {metric.name} fits no reference of {questions.source}"
        if not references:
            what = f"--metric {metric.name} needs references, and {questions.source} has none"
        raise InputError(what, hint=_columns_hint(config, questions) or "another --metric, or other questions")


def list_notes(config: ExperimentConfig, questions: QuestionSet, arms: int) -> Iterator[str]:
    """Yield warnings and notes, a line each, on what weakens a comparison of `arms` arms."""
    if warning := warn_few_topics([item.topic for item in questions.questions], arms, config.alpha):
        yield f"warning: {warning}"
    references = [item.reference for item in questions.questions if item.reference]
    if not references and (hint := _columns_hint(config, questions)):
        yield f"note: {questions.source} has no references; to use a column for them: {hint}"
    if arms == 1 or config.metric or config.scorers or config.answer_pattern:
        return
    if found := suitable_scorer(references):
        what = "numbers" if found == "number" else "letters"
        yield f"note: all references are {what}; to compare them as such: --scorers {found} --metric {found}"


def _columns_hint(config: ExperimentConfig, questions: QuestionSet) -> str:
    """Return the flags that use an unused column as references, empty if no column looks like references."""
    columns = dict.fromkeys(name for item in questions.questions for name in item.columns)
    found = find_lookalike("reference", columns)
    return column_flags({**config.layout.sources, "reference": found}) if found else ""
