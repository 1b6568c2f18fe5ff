"""All printing: data to stdout, messages to stderr; `--json` prints one document and nothing else on stdout."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fledge.core.jsonable import jsonable

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def err() -> Console:
    """Return the console for messages."""
    return Console(stderr=True, highlight=False)


_bars: list[Progress] = []
_last_message = [0.0]  # time of the last message
ESTIMATE_AFTER_S = 3.0  # the first tokens are the slowest and would bias an earlier estimate
LINE_EVERY_S = 15.0
# Answers and question files must not move the cursor or change colours.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class ReaderLeftError(Exception):
    """The reader of stdout has closed it, as `head` does."""


@contextlib.contextmanager
def _detect_closed_pipe() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, SystemExit):  # rich turns the former into the latter
        raise ReaderLeftError from None


def message(text: str) -> None:
    """Print a line to stderr, above a progress bar if there is one."""
    _last_message[0] = time.monotonic()
    console = _bars[-1].console if _bars else err()
    console.print(Text(text.translate(_CONTROLS)), soft_wrap=True)


def show_error(text: str, hint: str = "") -> None:
    """Print an error and its hint to stderr."""
    console = err()
    console.print(Text.assemble(("error: ", "bold red"), text.translate(_CONTROLS)), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("try: ", "bold"), hint.translate(_CONTROLS)), soft_wrap=True)


_document: TextIO | None = None


def keep_stdout() -> None:
    """Reserve stdout for the document of `--json`; other output, including that of libraries, goes to stderr."""
    global _document  # noqa: PLW0603 (a process has one stdout)
    if sys.stdout is None or sys.stderr is None:  # closed by the parent
        return
    sys.stdout.flush()
    _document = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def leave() -> None:
    """Discard all further output to stdout."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for file in (sys.stdout, _document):
        if file is not None:
            os.dup2(nowhere, file.fileno())


def emit(as_json: bool, value: Any, *shown: str | Text | Table) -> None:
    """Print a result: `value` as JSON, or the items of `shown` one below the other."""
    with _detect_closed_pipe():
        if as_json:
            out = _document or sys.stdout
            out.write(json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")
            out.flush()
            return
        console = Console(highlight=False)
        for item in shown:
            if isinstance(item, Table):
                console.print(item)
            else:
                text = Text(item.translate(_CONTROLS)) if isinstance(item, str) else item
                console.print(text, soft_wrap=True)


def emit_exactly(text: str) -> None:
    """Print a text unchanged, without the console's formatting."""
    with _detect_closed_pipe():
        click.echo(text, nl=False)


def emit_piece(text: str, *, to_stderr: bool = False) -> None:
    """Print a chunk of a streamed text and flush."""
    with _detect_closed_pipe():
        click.echo(text.translate(_CONTROLS), nl=False, err=to_stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table with numbers aligned right."""
    result = Table(title=title or None, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        result.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text(_format_cell(value).translate(_CONTROLS)) for value in row))
    return result


def fields(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Return a table of names and their wrapped texts."""
    shown = Text(title.translate(_CONTROLS))
    result = Table(title=shown, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    result.add_column(style="dim")
    result.add_column(overflow="fold")
    for name, text in rows:
        result.add_row(name, Text(text.translate(_CONTROLS)))
    return result


@contextlib.contextmanager
def cells_progress(description: str, most_tokens: int = 0) -> Iterator[Callable[[int, int, int, int], None]]:
    """Show the progress of cells on stderr: a bar on a terminal, else a line every 15 s.

    Yields the callback for `run_experiment`. `most_tokens` is the limit of an answer, 0 if unknown.
    """
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} answers, {task.fields[failed]} failed"),
        TextColumn("{task.fields[rate]:.0f} tokens/s"),
        TextColumn("{task.fields[left]}"),
    )
    first: list[int] = []  # answers present at the start
    said: list[float] = []  # time of the last line; the first line has the first estimate
    with _format_bar(description, *columns, with_left=False, failed=0, rate=0.0, left="") as (progress, task):

        def update(done: int, total: int, failed: int, tokens: int) -> None:
            if not first:
                first.append(done)
                said.append(time.monotonic() + ESTIMATE_AFTER_S - LINE_EVERY_S)
            progress.update(task, completed=done, total=total)
            _start(progress)
            elapsed = max(progress.tasks[0].elapsed or 0.0, 1.0)
            rate = tokens / elapsed
            left = _estimate_time_left(done - first[0], total - done, elapsed, tokens, most_tokens)
            progress.update(task, completed=done, total=total, failed=failed, rate=rate, left=left)
            if progress.disable and time.monotonic() - said[0] >= LINE_EVERY_S:
                said[0] = time.monotonic()
                message(f"{done}/{total} answers, {failed} failed, {rate:.0f} tokens/s, {left}")

        yield update


def _estimate_time_left(answered: int, waiting: int, elapsed: float, tokens: int, most_tokens: int) -> str:
    """Estimate the remaining time from the finished answers, or from the tokens if their share is greater."""
    count = answered + waiting
    share = max(answered / count, tokens / (count * most_tokens) if most_tokens else 0.0) if count else 1.0
    if elapsed < ESTIMATE_AFTER_S or not share:
        return "estimating"
    return f"{'' if answered else 'at most '}{_format_minutes(elapsed * (1 - share) / share)} left"


def _format_minutes(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def steps_progress(description: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show the progress of steps on stderr with the time left. Yields a callback of done, total and the step's name.

    Without a terminal, it prints a line after 15 s without another message.
    """
    column = TextColumn("{task.fields[what]}")
    _last_message[0] = time.monotonic()
    with _format_bar(description, column, what="") as (progress, task):

        def update(done: int, total: int, what: str) -> None:
            shown = f"{done}/{total} {what}" if total else what
            progress.update(task, completed=done, total=total or None, what=shown)
            _start(progress)
            if progress.disable and time.monotonic() - _last_message[0] >= LINE_EVERY_S:
                left = progress.tasks[0].time_remaining
                message(f"{description}: {shown}" + ("" if left is None else f", about {left:.0f} s left"))

        yield update


@contextlib.contextmanager
def _format_bar(
    description: str, *columns: TextColumn, with_left: bool = True, **fields: Any
) -> Iterator[tuple[Progress, TaskID]]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeElapsedColumn(),
        *([TimeRemainingColumn()] if with_left else []),
        console=err(),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    task = progress.add_task(description, start=False, total=None, **fields)
    try:
        yield progress, task
    finally:
        progress.stop()
        _bars.clear()


def _start(progress: Progress) -> None:
    """Show the bar and start its clock at the first update."""
    if not _bars:
        _bars.append(progress)
        progress.start_task(progress.task_ids[0])
        progress.start()


def _format_cell(value: Any) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "unbounded"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
