"""The table of faults in docs/reliability.md and its figures."""

import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPEATS = int(os.environ.get("FLEDGE_TEST_REPEATS", "20"))
LONG_REPEATS = min(3, REPEATS)  # for tests of half a minute or more
BEGIN, END = "<!-- the table of faults begins -->", "<!-- the table of faults ends -->"
HEAD = ["| | fault | asked | times | seen: least / median / most | date |", "|---|---|---|---|---|---|"]

Figures = dict[str, list[float]]


class Fault(NamedTuple):
    """A row of the table: its number, the fault, and the required behaviour."""

    number: str
    done: str
    asked: str


def fault(number: str, done: str, asked: str, *, times: int = REPEATS, quick: bool = False) -> Callable[..., Any]:
    """Mark the test of a fault and set `times`, its repetitions. CI runs a `quick` test once."""
    forms = [pytest.param(times, id="repeated", marks=pytest.mark.soak)]
    if quick:
        forms.append(pytest.param(1, id="once", marks=pytest.mark.slow))

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        marked = pytest.mark.fault(Fault(number, done, asked))(test)
        decorated: Callable[..., None] = pytest.mark.parametrize("times", forms)(marked)
        return decorated

    return decorate


def format_figures(figures: Mapping[str, Sequence[float]]) -> str:
    """Format figures for a table cell: least, median and most, or the only value."""
    parts = []
    for name, values in figures.items():
        spread = [min(values), statistics.median(values), max(values)]
        shown = [f"{round(value, 3):.3g}" if value < 1000 else f"{value:,.0f}" for value in spread]
        parts.append(f"{name} {' / '.join(shown if len(set(shown)) > 1 else shown[:1])}")
    return "; ".join(parts)


def format_row(about: Fault, times: int, seen: str) -> str:
    cells = [about.number, about.done, about.asked, str(times), seen, time.strftime("%Y-%m-%d")]
    return f"| {' | '.join(cells)} |"


def write_row(path: Path, line: str) -> None:
    """Write a row into the table, replacing the one with the same number."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = [text for text in table.splitlines() if re.match(r"\| \d", text) and _number(text) != _number(line)]
    content = "\n".join([BEGIN, *HEAD, *sorted([*rows, line], key=_number), END])
    path.write_text(before + content + after, encoding="utf-8")


def _number(line: str) -> tuple[int, str]:
    found = re.match(r"\| (\d+)(\w*) ", line)
    assert found, line
    return int(found[1]), found[2]
