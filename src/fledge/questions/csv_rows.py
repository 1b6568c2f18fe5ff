"""Rows of a CSV file, however it was saved: its separator, the line of its header, quotes that never close."""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fledge.questions.layout import QuestionLayout, column_flags
from fledge.questions.question_set import KNOWN
from fledge.questions.rows import MAXIMUM_CHARACTERS, Problem, ReadingNote, Row, Rows, lookalike

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "'|'"}
SEARCHED_ROWS = 20  # for a header that is not where it should be
CSV_HINT = 'put texts with commas between double quotes: "one, two"'
QUOTE_HINT = "close the quote, and double any quote inside the field"


class Table(NamedTuple):
    """The rows of a file, and what was guessed to read them."""

    rows: Rows
    notes: tuple[ReadingNote, ...]


def read_csv(text: str, layout: QuestionLayout) -> Table:
    """The rows below the header; errors stand among them."""
    csv.field_size_limit(max(csv.field_size_limit(), 2 * MAXIMUM_CHARACTERS))
    separator = _separator(text, layout)
    said = () if separator == "," else (ReadingNote("separator", f"columns separated by {SEPARATORS[separator]}"),)
    return Table(_rows(text, separator, layout), said)


def _rows(text: str, separator: str, layout: QuestionLayout) -> Rows:
    before = layout.header_row - 1
    reader = csv.reader(_from_line(text, before), delimiter=separator, strict=True)
    try:
        names = _stripped(next(reader, []))
    except csv.Error as error:
        yield _syntax(error, text, before, separator)
        return
    problem = _header_problem(names, text, layout)
    if problem:
        yield problem
        return
    while True:
        started = before + reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield _syntax(error, text, started, separator)
            continue
        if cells is None:
            return
        if cells:  # not an empty line
            yield _row(before + reader.line_num, names, cells)
            if not _has_question(names, layout):  # nor does any other row
                return


def _row(line: int, names: Sequence[str], cells: Sequence[str]) -> Row | Problem:
    if len(cells) != len(names):
        wrong = "more" if len(cells) > len(names) else "fewer"
        return Problem("syntax", line, f"{wrong} columns than the header", CSV_HINT)
    several = names.count("") > 1
    values = {name: cell for name, cell in zip(names, cells, strict=True) if name or cell or not several}
    if several and "" in values:
        return Problem("column", line, "a value in a column without a name", "give each column a name of its own")
    return Row(line, values)


def _separator(text: str, layout: QuestionLayout) -> str:
    """The one that finds most of the columns that are known, else most columns; of several the comma."""
    known = {*KNOWN, *(_column(source) for source in layout.sources.values()), *layout.sources.values()}

    def found(separator: str) -> tuple[int, int]:
        names = _first(text, layout.header_row - 1, separator)
        return len(known & set(names)), len(names)

    return max(SEPARATORS, key=found)


def _first(text: str, line: int, separator: str) -> list[str]:
    try:
        return _stripped(next(csv.reader(_from_line(text, line), delimiter=separator), []))
    except csv.Error:
        return []


def _stripped(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names]


def _from_line(text: str, line: int) -> io.StringIO:
    """The text from a line on, counted from 0."""
    file = io.StringIO(text, newline="")
    for _ in itertools.islice(file, line):
        pass
    return file


def _column(source: str) -> str:
    return source.split(".")[0]


def _has_question(names: Sequence[str], layout: QuestionLayout) -> bool:
    source = layout.sources.get("question", "question")
    return source in names or _column(source) in names


def _header_problem(names: Sequence[str], text: str, layout: QuestionLayout) -> Problem | None:
    line = layout.header_row
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        return Problem("column", line, f"two columns are called {twice[0]!r}", "give each column a name of its own")
    if _has_question(names, layout) or ("question" not in layout.sources and lookalike("question", names)):
        return None
    headers = _headers(text, layout)
    if not headers:
        return None
    suggestions = [f"--header-row {number}{flag}" for number, flag in headers.items()]
    lines = " and ".join(map(str, headers))
    looks = f"line {lines} looks" if len(headers) == 1 else f"lines {lines} look"
    what = f"no column {layout.sources.get('question', 'question')!r} in the header, but {looks} like one"
    return Problem("header", line, what, " or ".join(suggestions))


def _headers(text: str, layout: QuestionLayout) -> dict[int, str]:
    """The first lines that look like a header, with the flag that reads its question; those that need none first."""
    exact: dict[int, str] = {}
    alike: dict[int, str] = {}
    for separator in SEPARATORS:
        for line, names in _searched(text, separator):
            if _has_question(names, layout):
                exact[line] = ""
            elif "question" not in layout.sources and sum(bool(lookalike(name, names)) for name in KNOWN) > 1:
                meant = lookalike("question", names)
                if meant:
                    alike[line] = f" {column_flags({'question': meant})}"
    return dict(sorted((exact or alike).items()))


def _searched(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for _ in range(SEARCHED_ROWS):
        line = reader.line_num + 1
        try:
            names = next(reader, None)
        except csv.Error:
            return
        if names is None:
            return
        yield line, _stripped(names)


def _syntax(error: csv.Error, text: str, line: int, separator: str) -> Problem:
    """What is wrong in the row that begins at a line, counted from 0."""
    rest = _from_line(text, line).read()
    end = re.compile(f"[{re.escape(separator)}\r\n]|$")
    place = 0
    while place < len(rest):
        if rest[place] == '"':
            closed = re.compile(r'"[^"]*+(?:""[^"]*+)*+"').match(rest, place)
            opened = line + 1 + len(re.findall(r"\r\n?|\n", rest[:place]))
            if closed is None:
                return Problem("syntax", opened, "the double quote opened here is never closed", QUOTE_HINT)
            place = closed.end()
            if end.match(rest, place) is None:
                what = "text follows the closing quote of the field that opens here"
                return Problem("syntax", opened, what, QUOTE_HINT)
        found = end.search(rest, place)
        place = found.end() if found and found.group() else len(rest)
    return Problem("syntax", line + 1, str(error), CSV_HINT)
