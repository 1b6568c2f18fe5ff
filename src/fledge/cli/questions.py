"""`fledge questions`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from fledge.cli.options import group, settings
from fledge.cli.output import emit, emit_exactly, json_option, message, steps_progress, table
from fledge.core.errors import InputError
from fledge.core.settings import Workspace, load
from fledge.core.texts import counted
from fledge.questions.files import jsonl, write_file
from fledge.questions.layout import QuestionLayout
from fledge.questions.question_set import Question, QuestionSet
from fledge.questions.rows import Problem, Reading, ReadingNote, describe_notes
from fledge.questions.set_version import QuestionSetVersion
from fledge.questions.sources import read, read_questions
from fledge.questions.summary import Length, QuestionSummary, summarize
from fledge.questions.versions import QuestionsConfig, check_name, register_questions
from fledge.tracking.connection import connect

SHOWN_OF_A_KIND = 5
SHOWN_TOPICS = 20

source_argument = click.argument("source", metavar="QUESTIONS")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing file.")


@group()
def questions() -> None:
    """Show, validate and sample question sets, and register versions in MLflow.

    QUESTIONS is a .jsonl, .csv, .yaml or .parquet file, a folder of Hugging Face datasets, dataset:NAME for an
    evaluation dataset in MLflow (dataset:NAME/2 for one version, dataset:d-... by its id), or default for fledge's own.
    """


@questions.command()
@settings(Workspace)
@settings(QuestionLayout)
@source_argument
@click.option("--limit", type=click.IntRange(0), default=3, show_default=True, help="Number of questions to show.")
@json_option
def show(source: str, limit: int, as_json: bool, **flags: Any) -> None:
    """Show counts by topic and split, references, lengths, and the first questions."""
    reading = _read_source(source, flags)
    found = reading.question_set()
    summary, first = summarize(found), found.questions[:limit]
    value = {**summary.as_dict(), "first": [asdict(item) for item in first], "notes": _as_json(reading.notes)}
    emit(as_json, value, _build_count_table(summary), _build_length_table(summary), *_format_questions(first))
    if not as_json:
        _show_notes(reading)
        message(f"digest {summary.digest[:12]}; next: fledge questions validate {source}{reading.layout.flags}")


@questions.command()
@settings(Workspace)
@settings(QuestionLayout)
@source_argument
@click.option("--fix", "out", type=click.Path(path_type=Path), help="Write a copy without duplicate rows.")
@overwrite_option
@json_option
def validate(source: str, out: Path | None, overwrite: bool, as_json: bool, **flags: Any) -> None:
    """List errors (exit code 2) and warnings with line and fix."""
    from fledge.questions.checks import clean, warnings

    reading = _read_source(source, flags)
    found = warnings(reading)
    value = {
        "source": reading.source,
        "questions": len(reading.questions),
        "errors": _as_json(reading.errors),
        "warnings": _as_json(found),
        "notes": _as_json(reading.notes),
        "fixed": None,
    }
    errors = reading.errors
    if out is not None and all(error.kind == "duplicate" for error in errors):
        fixed = clean(reading)
        write_file(fixed, out, overwrite=overwrite)
        left_out = len(reading.questions) + len(errors) - len(fixed.questions)
        value["fixed"] = {"output": str(out), "questions": len(fixed.questions), "left_out": left_out}
        errors = ()
    count = f"{len(reading.questions):,} questions"
    heading = f"{reading.source}: {count}, {_format_count(reading.errors, 'error')}, {_format_count(found, 'warning')}"
    emit(as_json, value, heading, *_problems(reading, "errors", reading.errors), *_problems(reading, "warnings", found))
    if not as_json:
        _show_notes(reading)
    if value["fixed"]:
        message(f"wrote {out}: {len(fixed.questions)} questions, {left_out} left out")
    if errors:
        kept = f", so {out} was not written" if out else ""
        raise InputError(f"{reading.source} has {_format_count(errors, 'error')}{kept}", hint="fix these rows")


@questions.command()
@settings(Workspace)
@settings(QuestionLayout)
@source_argument
@click.option("--size", type=click.IntRange(1), required=True, help="Number of questions to draw.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same questions.")
@click.option("--split", default="", help="Only questions of this split.")
@click.option("--topic", default="", help="Only questions of this topic.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="A .jsonl, .csv or .yaml file. [default: JSONL on stdout]"
)
@overwrite_option
@json_option
def sample(
    source: str,
    size: int,
    seed: int,
    split: str,
    topic: str,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Draw questions evenly over topics and write them as a question set with the same ids."""
    every = read_questions(
        source, layout=load(QuestionLayout, flags).value, workspace=load(Workspace, flags).value, say=message
    )
    drawn = _select(every, split, topic).sample(size, seed)
    if output is not None:
        write_file(drawn, output, overwrite=overwrite)
    value = {
        "source": drawn.source,
        "digest": drawn.digest,
        "output": str(output) if output else None,
        "questions": [asdict(item) for item in drawn.questions],
    }
    if as_json:
        emit(True, value)
    elif output is None:
        emit_exactly(jsonl(drawn))
    else:
        message(f"wrote {output}: {len(drawn.questions)} questions")
    if len(drawn.questions) < size:
        message(f"there are only {len(drawn.questions)}")


@questions.command()
@settings(QuestionsConfig)
@settings(QuestionLayout)
@source_argument
@click.option("--name", required=True, help="Name of the question set in MLflow.")
@json_option
def register(source: str, name: str, as_json: bool, **flags: Any) -> None:
    """Register questions in MLflow as a new version of a set: the evaluation dataset NAME/1, NAME/2, and so on.

    Unchanged questions make no new version.
    """
    check_name(name)
    config = load(QuestionsConfig, flags).value
    found = read_questions(source, layout=load(QuestionLayout, flags).value, workspace=config, say=message)
    with steps_progress("registering") as progress:
        version = register_questions(found, name, config=config, progress=progress)
    emit(as_json, version.as_dict(), f"{name}/{version.version}{'' if version.new else ' (unchanged)'}")
    if not as_json:
        message(f"next: fledge experiment --questions {version.source}")


@questions.command("list")
@settings(Workspace)
@click.argument("name", default="")
@json_option
def list_(name: str, as_json: bool, **flags: Any) -> None:
    """List the versions of all question sets in MLflow, or of NAME, newest first."""
    from fledge.questions import _mlflow_datasets

    if name:
        check_name(name)
    found = _mlflow_datasets.versions(connect(load(Workspace, flags).value.tracking), name)
    rows = [[item.source, item.questions, _format_time(item.time), item.dataset_id] for item in found]
    columns = ["set", "questions", "registered", "id in MLflow"]
    emit(as_json, [_without_new(item) for item in found], table("question sets", columns, rows))


def _read_source(source: str, flags: dict[str, Any]) -> Reading:
    return read(source, load(QuestionLayout, flags).value, workspace=load(Workspace, flags).value)


def _show_notes(reading: Reading) -> None:
    if reading.notes:
        message(describe_notes(reading.source, reading.notes))


def _as_json(items: Sequence[Problem | ReadingNote]) -> list[dict[str, Any]]:
    return [item._asdict() for item in items]


def _without_new(version: QuestionSetVersion) -> dict[str, Any]:
    return {name: value for name, value in version.as_dict().items() if name != "new"}


def _format_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _select(every: QuestionSet, split: str, topic: str) -> QuestionSet:
    for name, wanted in (("split", split), ("topic", topic)):
        there = sorted({getattr(item, name) for item in every.questions} - {""})
        if wanted and wanted not in there:
            known = ", ".join(there[:SHOWN_TOPICS]) or "none"
            raise InputError(f"{every.source} has no {name} {wanted!r}", hint=f"{name}s there: {known}")
    chosen = every.only(split, topic=topic)
    if not chosen.questions:
        raise InputError(f"{every.source} has no question of both {split!r} and {topic!r}", hint="name one of them")
    return chosen


def _build_count_table(summary: QuestionSummary) -> Table:
    splits = list(summary.splits)
    columns = ["topic", "questions", *(split or "no split" for split in splits if splits != [""])]
    rows: list[list[Any]] = [
        [topic.topic or "no topic", topic.questions, *(topic.splits.get(split, 0) for split in splits)][: len(columns)]
        for topic in summary.topics
    ]
    if len(rows) > SHOWN_TOPICS:
        more = f"{len(rows) - SHOWN_TOPICS} more topics"
        rest = [sum(row[index] for row in rows[SHOWN_TOPICS:]) for index in range(1, len(columns))]
        rows = [*rows[:SHOWN_TOPICS], [more, *rest]]
    total = [sum(row[index] for row in rows) for index in range(1, len(columns))]
    return table(summary.source, columns, [*rows, ["in all", *total]])


def _build_length_table(summary: QuestionSummary) -> Table:
    share = f"{summary.references:,} ({summary.references / summary.questions:.0%})"
    rows = [
        ["questions", f"{summary.questions:,}", *_format_lengths(summary.question_words, summary.question_characters)],
        ["references", share, *_format_lengths(summary.reference_words, summary.reference_characters)],
    ]
    return table("lengths, median and maximum", ["", "number", "words", "characters"], rows)


def _format_lengths(*lengths: Length | None) -> list[str]:
    return [f"{length.median:,.0f}, {length.max:,}" if length else "" for length in lengths]


def _format_questions(items: Sequence[Question]) -> Iterator[str]:
    for item in items:
        yield f"{item.id}  {item.question}"
        if item.reference:
            yield f"{' ' * len(item.id)}  {item.reference}"


def _problems(reading: Reading, what: str, problems: Sequence[Problem]) -> Iterator[str]:
    """Yield the first problems of each kind and the number of the others."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    if problems:
        yield what
    for kind, found in kinds.items():
        for problem in found[:SHOWN_OF_A_KIND]:
            yield f"  {reading.where(problem)}: {problem.message}\n    {problem.hint}"
        if len(found) > SHOWN_OF_A_KIND:
            yield f"  and {len(found) - SHOWN_OF_A_KIND:,} more of this kind ({kind}); --json has all"


def _format_count(problems: Sequence[Problem], what: str) -> str:
    return counted(len(problems), what) if problems else f"no {what}s"
