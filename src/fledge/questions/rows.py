"""Convert the rows of a source to questions or errors."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

from fledge.core.errors import InputError
from fledge.questions.layout import (
    ABSENT,
    LONGEST_MATCHING_S,
    PLAIN,
    Nested,
    QuestionLayout,
    ReferencePattern,
    column_flags,
    value_at,
)
from fledge.questions.question_set import KNOWN, Question, QuestionSet, non_empty

MAXIMUM_CHARACTERS = 200_000
NON_TEXT_TYPES = (list, dict, bytes, Nested)
SHOWN_COLUMNS = 20
SHOWN_CHARACTERS = 60
PATTERN_HINT = "correct these references, or write a pattern that matches all of them"
# Names of these columns in other data sets.
LOOKALIKES = {
    "question": ("prompt", "query", "input", "instruction", "text", "q", "user_input", "questions"),
    "reference": (
        *("answer", "answers", "expected", "expected_response", "expected_output", "expected_answer", "ground_truth"),
        *("gold", "target", "label", "output", "response", "completion", "references"),
    ),
    "topic": ("category", "subject", "cluster", "domain", "theme", "topics"),
    "split": ("subset", "fold", "partition"),
    "id": ("qid", "question_id", "_id", "uid", "uuid"),
}


class Row(NamedTuple):
    """One row; `line` counts from 1."""

    line: int
    values: Mapping[Any, Any]


class Problem(NamedTuple):
    """An error or a warning with its fix; `line` is None if it concerns all rows, `kind` is one word."""

    kind: str
    line: int | None
    message: str
    hint: str


class ReadingNote(NamedTuple):
    """A guess made to read a source; `kind` is `separator`, `encoding` or `column`."""

    kind: str
    message: str


def describe_notes(source: str, notes: Sequence[ReadingNote]) -> str:
    """Format the notes on a source in one line."""
    return f"{source}: {'; '.join(note.message for note in notes)}"


Rows = Iterator[Row | Problem]


@dataclass(frozen=True)
class Reading:
    """The questions, errors and notes of a source. `lines[i]` is the line of `questions[i]`; `unit` names a row."""

    source: str
    unit: str
    questions: tuple[Question, ...]
    lines: tuple[int, ...]
    errors: tuple[Problem, ...]
    notes: tuple[ReadingNote, ...] = ()
    layout: QuestionLayout = PLAIN

    def question_set(self) -> QuestionSet:
        """Return the question set. Raises `InputError` with the first error and the number of others."""
        if not self.errors:
            return QuestionSet(self.source, self.questions)
        first, further = self.errors[0], len(self.errors) - 1
        more = f" (and {further} more)" if further else ""
        command = f"fledge questions validate {self.source}{self.layout.flags}"
        every = f"; list all: {command}" if further and self.unit != "row" else ""
        raise InputError(f"{self.where(first)}: {first.message}{more}", hint=f"{first.hint}{every}")

    @property
    def uncertain_notes(self) -> list[ReadingNote]:
        """Notes on guesses that may be wrong; a wrong separator would show in the rows."""
        return [note for note in self.notes if note.kind != "separator"]

    def where(self, problem: Problem) -> str:
        """Return the source and, if known, the row of a problem."""
        return self.source if problem.line is None else f"{self.source}, {self.unit} {problem.line}"


def collect(
    source: str,
    unit: str,
    items: Iterable[Row | Problem],
    problems: Sequence[Problem] = (),
    *,
    layout: QuestionLayout = PLAIN,
    notes: Sequence[ReadingNote] = (),
) -> Reading:
    """Convert rows to questions; each invalid row becomes an error, in addition to the known `problems`."""
    questions: list[Question] = []
    lines: list[int] = []
    errors, notes = list(problems), list(notes)
    seen: dict[str, int] = {}
    sources = layout.sources
    if sources:
        items, more = _rename_columns(list(items), layout, unit)
        notes += more
    if layout.reference_pattern:
        items = _extract_references(list(items), layout.reference_pattern, unit)
    for item in items:
        found = _to_question(item, sources) if isinstance(item, Row) else item
        if isinstance(found, Question) and found.id in seen:
            first = seen[found.id]
            found = _duplicate_row(item, found, questions[first], f"{unit} {lines[first]}")
        if isinstance(found, Problem):
            errors.append(found)
        else:
            seen[found.id] = len(questions)
            questions.append(found)
            lines.append(item.line or 0)
    if not questions and not errors:
        errors.append(Problem("empty", None, "no questions", "write one row for each, with the text in 'question'"))
    ordered = {error.line or 0: error for error in reversed(errors)}  # one for each row
    every = tuple(ordered[line] for line in sorted(ordered))
    return Reading(source, unit, tuple(questions), tuple(lines), every, tuple(notes), layout)


def derive_id(question: str) -> str:
    """Derive the id of a question without one from its text."""
    return hashlib.sha256(question.encode()).hexdigest()[:12]


def content_of(item: Question) -> tuple[Any, ...]:
    """Return all columns but the id, for comparison."""
    return (item.question, item.reference, item.topic, item.split, *non_empty(item.columns))


def find_lookalike(name: str, columns: Iterable[Any]) -> str | None:
    """Return the column that may be `name` under another spelling or another usual name."""
    spelled = {re.sub(r"[\s-]+", "_", str(column).strip().casefold()): str(column) for column in columns}
    return next((spelled[other] for other in (name, *LOOKALIKES[name]) if other in spelled), None)


def _rename_columns(
    items: list[Row | Problem], layout: QuestionLayout, unit: str
) -> tuple[list[Row | Problem], list[ReadingNote]]:
    """Rename the columns by the layout; return one error if a column is missing from all rows."""
    sources = layout.sources
    rows = [item for item in items if isinstance(item, Row)]
    absent = {
        name: [row.line for row in rows if value_at(row.values, source) is ABSENT] for name, source in sources.items()
    }
    missing = [name for name, lines in absent.items() if len(lines) == len(rows)]
    if rows and missing:
        return [*(item for item in items if isinstance(item, Problem)), _missing_columns(missing, sources, rows)], []
    notes = [
        ReadingNote(
            "column", f"no {sources[name]!r} in {len(lines):,} of {len(rows):,} rows, the first on {unit} {lines[0]}"
        )
        for name, lines in absent.items()
        if lines and name != "question"
    ]
    return [_rename_row(item, sources) if isinstance(item, Row) else item for item in items], notes


def _rename_row(row: Row, sources: Mapping[str, str]) -> Row | Problem:
    taken = {name: value_at(row.values, source) for name, source in sources.items()}
    if taken.get("question") is ABSENT:
        return Problem("column", row.line, f"no {sources['question']!r}", "add it, or remove the row")
    rest = {name: value for name, value in row.values.items() if name not in sources.values() and name not in taken}
    return Row(row.line, {**{name: None if value is ABSENT else value for name, value in taken.items()}, **rest})


def _missing_columns(missing: Sequence[str], sources: Mapping[str, str], rows: Sequence[Row]) -> Problem:
    there = list(dict.fromkeys(str(column) for row in rows for column in row.values))
    shown = ", ".join(map(repr, there[:SHOWN_COLUMNS])) + (", ..." if len(there) > SHOWN_COLUMNS else "")
    misspelled = [name for name in missing if sources[name].split(".")[0] not in there]
    close = {name: near[0] for name in misspelled if (near := get_close_matches(sources[name], there, 1))}
    hint = column_flags({**sources, **close}) if close else "give an existing column; --columns '' renames none"
    names = " and no ".join(repr(sources[name]) for name in missing)
    return Problem("column", None, f"no column {names}, only {shown}", hint)


def _extract_references(items: list[Row | Problem], pattern: str, unit: str) -> list[Row | Problem]:
    """Replace each reference by its matching part; return an error for each that does not match, or one for all."""
    search, found, matched = ReferencePattern(pattern), [], 0
    unmatched: list[Problem] = []
    for item in items:
        value = item.values.get("reference") if isinstance(item, Row) else None
        text = "" if isinstance(value, NON_TEXT_TYPES) else _to_text(value)
        if not (isinstance(item, Row) and text):
            matched += isinstance(value, NON_TEXT_TYPES)  # reported as a type error
            found.append(item)
            continue
        try:
            part = search.find(text)
        except TimeoutError:
            what = f"{pattern!r} takes more than {LONGEST_MATCHING_S:g} s on the references down to this one"
            return [Problem("pattern", item.line, what, "avoid nested repeats such as (a|aa)+")]
        matched += bool(part)
        if part:
            found.append(item._replace(values={**item.values, "reference": part}))
        else:
            what = f"the reference {_shorten(text)!r} does not match {pattern!r}"
            unmatched.append(Problem("pattern", item.line, what, PATTERN_HINT))
            found.append(unmatched[-1])
    return found if matched else [*_explain_no_match(items, unmatched, pattern, unit)]


def _explain_no_match(items: Sequence[Row | Problem], unmatched: Sequence[Problem], pattern: str, unit: str) -> Rows:
    """Yield the known errors, and one for a pattern without any match."""
    yield from (item for item in items if isinstance(item, Problem))
    names = next((list(item.values) for item in items if isinstance(item, Row)), None)
    if unmatched:
        first = unmatched[0]
        what = f"no reference matches {pattern!r}; on {unit} {first.line}, {first.message}"
        yield Problem("pattern", None, what, "write a pattern that matches all references")
    elif names is not None:
        meant = find_lookalike("reference", names)
        hint = column_flags({"reference": meant}) if meant else "--columns reference=COLUMN"
        yield Problem("pattern", None, f"no references for the pattern {pattern!r}", hint)


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"... {text[-SHOWN_CHARACTERS:]}"


def _to_question(row: Row, sources: Mapping[str, str]) -> Question | Problem:
    texts: dict[str, str] = {}
    for key, value in row.values.items():
        name = str(key).strip()
        if name in texts:
            return Problem("column", row.line, f"two columns are called {name!r}", "give each column a unique name")
        texts[name] = text = value if type(value) is str else _to_text(value)
        if isinstance(value, NON_TEXT_TYPES) and name in KNOWN:
            return _reject_type(row.line, name, value, sources)
        problem = _find_bad_characters(row.line, name, f"{name}{text}")
        if problem:
            return problem
    if "question" not in texts:
        return _missing_question(row, sources)
    question = texts["question"]
    if not question.strip():
        return Problem("empty", row.line, "the question is empty", "write a question, or delete the row")
    if len(question) > MAXIMUM_CHARACTERS:
        what = f"the question has {len(question)} characters, the maximum is {MAXIMUM_CHARACTERS}"
        return Problem("length", row.line, what, "shorten it")
    return Question(
        id=texts.get("id", "").strip() or derive_id(question),
        question=question,
        reference=texts.get("reference") or None,
        topic=texts.get("topic", ""),
        split=texts.get("split", ""),
        columns={name: text for name, text in texts.items() if name not in KNOWN},
    )


def _to_text(value: Any) -> str:
    if value is None or value != value:  # NaN is not itself
        return ""
    if isinstance(value, (bool, int, float, list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _missing_question(row: Row, sources: Mapping[str, str]) -> Problem:
    columns = [str(name) for name in row.values]
    meant = find_lookalike("question", columns)
    hint = f"give the question column: {column_flags({'question': meant or 'COLUMN', **sources})}"
    return Problem("column", row.line, f"no column 'question', only {', '.join(map(repr, columns)) or 'nothing'}", hint)


def _reject_type(line: int, name: str, value: Any, sources: Mapping[str, str]) -> Problem:
    if isinstance(value, bytes):
        return Problem("type", line, f"{name!r} is bytes, not text", "convert it to text")
    part = next(iter(value), "") if isinstance(value, dict) else "0"
    hint = f"write one text, or select a part: {column_flags({**sources, name: f'{sources.get(name, name)}.{part}'})}"
    return Problem("type", line, f"{name!r} is a list or an object, not text", hint)


def _find_bad_characters(line: int, name: str, text: str) -> Problem | None:
    """Return an error for characters that models or databases do not accept."""
    if "\0" in text:
        return Problem("characters", line, f"a NUL character in {name!r}", "remove it")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        what = f"an unpaired surrogate in {name!r}"
        return Problem("characters", line, what, "in JSON write an emoji as itself or as two \\u escapes")
    return None


def _duplicate_row(row: Row | Problem, found: Question, first: Question, where: str) -> Problem:
    derived = isinstance(row, Row) and not _to_text(row.values.get("id")).strip()
    what = "the same question as on" if derived else f"id {found.id!r} is also on"
    if content_of(found) == content_of(first):
        return Problem(
            "duplicate", row.line, f"{what} {where}", "delete one of the two, or write a copy with --fix OUT"
        )
    return Problem("id", row.line, f"{what} {where}", "keep one of the two")
