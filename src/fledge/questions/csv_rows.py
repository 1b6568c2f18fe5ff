"""Rows of a CSV file: detect the separator and the header line, and report unclosed quotes."""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fledge.questions.layout import QuestionLayout, column_flags
from fledge.questions.question_set import KNOWN
from fledge.questions.rows import MAXIMUM_CHARACTERS, Problem, ReadingNote, Row, Rows, find_lookalike

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "'|'"}
SEARCHED_ROWS = 20  # to suggest a header line
CSV_HINT = 'put texts with commas between double quotes: "one, two"'
QUOTE_HINT = "close the quote, and double any quote inside the field"


class Table(NamedTuple):
    """The rows of a file, and notes on what was guessed."""

    rows: Rows
    notes: tuple[ReadingNote, ...]


def read_csv(text: str, layout: QuestionLayout) -> Table:
    """Read the rows below the header, with errors in place of invalid rows."""
    csv.field_size_limit(max(csv.field_size_limit(), 2 * MAXIMUM_CHARACTERS))
    separator = _detect_separator(text, layout)
    notes = () if separator == "," else (ReadingNote("separator", f"columns separated by {SEPARATORS[separator]}"),)
    return Table(_read_rows(text, separator, layout), notes)


def _read_rows(text: str, separator: str, layout: QuestionLayout) -> Rows:
    before = layout.header_row - 1
    reader = csv.reader(_from_line(text, before), delimiter=separator, strict=True)
    try:
        names = _strip(next(reader, []))
    except csv.Error as error:
        yield _locate_syntax_error(error, text, before, separator)
        return
    problem = _check_header(names, text, layout)
    if problem:
        yield problem
        return
    while True:
        started = before + reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield _locate_syntax_error(error, text, started, separator)
            continue
        if cells is None:
            return
        if cells:  # not an empty line
            yield _to_row(before + reader.line_num, names, cells)
            if not _has_question(names, layout):  # one error is enough: all rows lack it
                return


def _to_row(line: int, names: Sequence[str], cells: Sequence[str]) -> Row | Problem:
    if len(cells) != len(names):
        wrong = "more" if len(cells) > len(names) else "fewer"
        return Problem("syntax", line, f"{wrong} columns than the header", CSV_HINT)
    several = names.count("") > 1
    values = {name: cell for name, cell in zip(names, cells, strict=True) if name or cell or not several}
    if several and "" in values:
        return Problem("column", line, "a value in a column without a name", "give each column a unique name")
    return Row(line, values)


def _detect_separator(text: str, layout: QuestionLayout) -> str:
    """Return the separator that finds the most known columns, then the most columns, preferring the comma."""
    known = {*KNOWN, *(_root_column(source) for source in layout.sources.values()), *layout.sources.values()}

    def found(separator: str) -> tuple[int, int]:
        names = _read_header(text, layout.header_row - 1, separator)
        return len(known & set(names)), len(names)

    return max(SEPARATORS, key=found)


def _read_header(text: str, line: int, separator: str) -> list[str]:
    try:
        return _strip(next(csv.reader(_from_line(text, line), delimiter=separator), []))
    except csv.Error:
        return []


def _strip(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names]


def _from_line(text: str, line: int) -> io.StringIO:
    """Return the text from a line on, counted from 0."""
    file = io.StringIO(text, newline="")
    for _ in itertools.islice(file, line):
        pass
    return file


def _root_column(source: str) -> str:
    return source.split(".")[0]


def _has_question(names: Sequence[str], layout: QuestionLayout) -> bool:
    source = layout.sources.get("question", "question")
    return source in names or _root_column(source) in names


def _check_header(names: Sequence[str], text: str, layout: QuestionLayout) -> Problem | None:
    line = layout.header_row
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        return Problem("column", line, f"two columns are called {twice[0]!r}", "give each column a unique name")
    if _has_question(names, layout) or ("question" not in layout.sources and find_lookalike("question", names)):
        return None
    headers = _find_headers(text, layout)
    if not headers:
        return None
    suggestions = [f"--header-row {number}{flag}" for number, flag in headers.items()]
    lines = " and ".join(map(str, headers))
    looks = f"line {lines} looks" if len(headers) == 1 else f"lines {lines} look"
    what = f"no column {layout.sources.get('question', 'question')!r} in the header, but {looks} like one"
    return Problem("header", line, what, " or ".join(suggestions))


def _find_headers(text: str, layout: QuestionLayout) -> dict[int, str]:
    """Return lines that look like a header, with the flags to read their question column."""
    exact: dict[int, str] = {}
    similar: dict[int, str] = {}
    for separator in SEPARATORS:
        for line, names in _search_rows(text, separator):
            if _has_question(names, layout):
                exact[line] = ""
            elif "question" not in layout.sources and sum(bool(find_lookalike(name, names)) for name in KNOWN) > 1:
                meant = find_lookalike("question", names)
                if meant:
                    similar[line] = f" {column_flags({'question': meant})}"
    return dict(sorted((exact or similar).items()))


def _search_rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for _ in range(SEARCHED_ROWS):
        line = reader.line_num + 1
        try:
            names = next(reader, None)
        except csv.Error:
            return
        if names is None:
            return
        yield line, _strip(names)


def _locate_syntax_error(error: csv.Error, text: str, line: int, separator: str) -> Problem:
    """Locate the syntax error in the row that begins at a line, counted from 0."""
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
