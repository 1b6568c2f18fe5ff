"""`fledge runs` and `fledge answers`."""

import time
from typing import Any

import click
from rich.table import Table

from fledge.cli.options import command, settings
from fledge.cli.output import emit, fields, json_option, message, table
from fledge.core.settings import Workspace, load
from fledge.core.texts import counted
from fledge.experiments.answers import AnswerList, AnswerRow
from fledge.experiments.answers import answers as list_answers
from fledge.experiments.run_ids import short_id
from fledge.experiments.run_summary import RunSummary
from fledge.experiments.runs import SHOWN
from fledge.experiments.runs import runs as list_runs


@command()
@settings(Workspace)
@click.option("--limit", type=int, default=SHOWN, show_default=True, help="Show at most this many; 0 for all.")
@json_option
def runs(limit: int, as_json: bool, **flags: Any) -> None:
    """List experiments and evaluations, newest first."""
    found = list_runs(limit=limit, workspace=load(Workspace, flags).value)
    now = time.time()
    ids = [run.run_id for run in found]
    rows = [
        [
            short_id(run.run_id, ids),
            run.kind,
            run.status,
            ", ".join(run.arms),
            run.cells,
            run.failed,
            _format_age(now - run.started),
        ]
        for run in found
    ]
    columns = ["run", "kind", "status", "arms", "cells", "failed", "age"]
    emit(as_json, {"runs": [run._asdict() for run in found]}, table("", columns, rows))
    if not as_json:
        message(_suggest_next(found))


def _suggest_next(found: list[RunSummary]) -> str:
    if not found:
        return "no experiments yet; next: fledge experiment"
    if found[0].kind == "experiment" and found[0].status in ("interrupted", "killed", "failed"):
        return f"next: fledge experiment --resume {short_id(found[0].run_id)}"
    return "next: fledge answers last" if found[0].status == "finished" else "next: fledge runs, once it has finished"


@command()
@settings(Workspace)
@click.argument("run")
@click.option("--arm", help="Only the answers of this arm.")
@click.option("--topic", help="Only the answers to questions of this topic.")
@click.option("--wrong", is_flag=True, help="Only answers with a score of 0, or below 0.5, in the experiment's metric.")
@click.option("--sort", metavar="METRIC", help="Show the worst by this metric first.")
@click.option("--limit", type=int, help=f"Show at most this many; 0 for all.  [default: {SHOWN}; with --json: 0]")
@json_option
def answers(run: str, as_json: bool, **flags: Any) -> None:
    """Show the answers of RUN: an id, a unique prefix of at least 4 characters, or last."""
    names = ("arm", "topic", "wrong", "sort", "limit")
    chosen = {name: flags.pop(name) for name in names}
    if chosen["limit"] is None:
        chosen["limit"] = 0 if as_json else SHOWN
    found = list_answers(run, **chosen, workspace=load(Workspace, flags).value)
    first = [name for name in (chosen["sort"], found.metric) if name]
    emit(as_json, found.as_dict(), *(item for answer in found.answers for item in (_answer_table(answer, first), "")))
    message(_summary(found, chosen["sort"]))


def _answer_table(answer: AnswerRow, first: list[str]) -> Table:
    """Return an answer as a table, with the scores named in `first` before the others."""
    names = [name for name in dict.fromkeys((*first, *answer.scores)) if name in answer.scores]
    where = f"{answer.arm}, sample {answer.sample}" + (f", topic {answer.topic}" if answer.topic else "")
    rows = [
        ("question", answer.question),
        *([("reference", answer.reference)] if answer.reference else []),
        ("error", answer.error) if answer.error else ("answer", answer.answer),
        ("scores", ", ".join(f"{name} {answer.scores[name]:.3g}" for name in names)),
    ]
    return fields(f"{answer.id}: {where}", rows)


def _summary(found: AnswerList, sort: str | None) -> str:
    """Return the number of answers, their order, and how many are left out."""
    text = counted(found.total, "answer")
    if found.metric:
        text += f" wrong by {found.metric}"
    if sort:
        text += f", the worst by {sort} first"
    if len(found.answers) < found.total:
        text += f", {len(found.answers):,} shown (--limit)"
    return f"{text}; {found.unscored:,} without {found.metric} left out" if found.unscored else text


def _format_age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
