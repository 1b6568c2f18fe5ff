"""Rows as a source has them, the questions in them, and what is wrong with the others."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fledge.core.errors import InputError
from fledge.questions.question_set import KNOWN, Question, QuestionSet

MAXIMUM_CHARACTERS = 200_000
# What other data sets call our columns.
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


class Nested(str):
    """A list or a mapping, as it is written in a file."""

    __slots__ = ()


class Row(NamedTuple):
    """One row; `line` counts from 1."""

    line: int
    values: Mapping[Any, Any]


class Problem(NamedTuple):
    """What is wrong or odd and what to do; `line` is None for what concerns all rows, `kind` is one word for it."""

    kind: str
    line: int | None
    message: str
    hint: str


@dataclass(frozen=True)
class Reading:
    """All that was found in a source: `lines[i]` is where `questions[i]` stands; a row is called a `unit` there."""

    source: str
    unit: str
    questions: tuple[Question, ...]
    lines: tuple[int, ...]
    errors: tuple[Problem, ...]

    def question_set(self) -> QuestionSet:
        """Raises `InputError` for the first error, and says how many there are."""
        if not self.errors:
            return QuestionSet(self.source, self.questions)
        first, further = self.errors[0], len(self.errors) - 1
        more = f" (and {further} more)" if further else ""
        every = f"; all of them: fledge questions validate {self.source}" if further and self.unit != "row" else ""
        raise InputError(f"{self.where(first)}: {first.message}{more}", hint=f"{first.hint}{every}")

    def where(self, problem: Problem) -> str:
        """The source and, if it is one, the row."""
        return self.source if problem.line is None else f"{self.source}, {self.unit} {problem.line}"


def collect(source: str, unit: str, items: Iterable[Row | Problem], problems: Sequence[Problem] = ()) -> Reading:
    """Make questions of rows; every row that is none becomes an error, beside the `problems` that are known already."""
    questions: list[Question] = []
    lines: list[int] = []
    errors = list(problems)
    seen: dict[str, int] = {}
    for item in items:
        found = _question(item) if isinstance(item, Row) else item
        if isinstance(found, Question) and found.id in seen:
            first = seen[found.id]
            found = _twice(item, found, questions[first], f"{unit} {lines[first]}")
        if isinstance(found, Problem):
            errors.append(found)
        else:
            seen[found.id] = len(questions)
            questions.append(found)
            lines.append(item.line or 0)
    if not questions and not errors:
        errors.append(Problem("empty", None, "no questions in it", "a row for each, with the text as 'question'"))
    ordered = {error.line or 0: error for error in reversed(errors)}  # one for each row
    return Reading(source, unit, tuple(questions), tuple(lines), tuple(ordered[line] for line in sorted(ordered)))


def derived_id(question: str) -> str:
    """The id of a question that comes without one: the same wherever it is asked."""
    return hashlib.sha256(question.encode()).hexdigest()[:12]


def content(item: Question) -> tuple[Any, ...]:
    """All columns but the id, to be compared."""
    return (item.question, item.reference, item.topic, item.split, *sorted(item.columns.items()))


def lookalike(name: str, columns: Iterable[Any]) -> str | None:
    """The column that may be meant to be `name`: spelled otherwise, or called as other data sets call it."""
    spelled = {re.sub(r"[\s-]+", "_", str(column).strip().casefold()): str(column) for column in columns}
    return next((spelled[other] for other in (name, *LOOKALIKES[name]) if other in spelled), None)


def _question(row: Row) -> Question | Problem:
    if "question" not in row.values:
        return _no_question(row)
    texts: dict[str, str] = {}
    for name, value in row.values.items():
        texts[str(name)] = text = value if type(value) is str else _text(value)
        if isinstance(value, (list, dict, Nested)) and name in KNOWN:
            return Problem("type", row.line, f"{name!r} is a list or an object, not a text", "write one text")
        problem = _bad_characters(row.line, name, f"{name}{text}")
        if problem:
            return problem
    question = texts["question"]
    if not question.strip():
        return Problem("empty", row.line, "the question is empty", "write a question, or delete the line")
    if len(question) > MAXIMUM_CHARACTERS:
        what = f"the question has {len(question)} characters, {MAXIMUM_CHARACTERS} at most"
        return Problem("length", row.line, what, "shorten it")
    return Question(
        id=texts.get("id", "").strip() or derived_id(question),
        question=question,
        reference=texts.get("reference") or None,
        topic=texts.get("topic", ""),
        split=texts.get("split", ""),
        columns={name: text for name, text in texts.items() if name not in KNOWN},
    )


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN is not itself
        return ""
    if isinstance(value, (bool, int, float, list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _no_question(row: Row) -> Problem:
    columns = [str(name) for name in row.values]
    meant = lookalike("question", columns)
    hint = f"rename the column {meant!r} to 'question'" if meant else "name the column with the questions 'question'"
    if len(columns) == 1 and re.search("[;\t|]", columns[0]):
        hint = "separate the columns by commas"
    return Problem("column", row.line, f"no column 'question', only {', '.join(map(repr, columns)) or 'nothing'}", hint)


def _bad_characters(line: int, name: str, text: str) -> Problem | None:
    """What neither a model nor a database takes."""
    if "\0" in text:
        return Problem("characters", line, f"a NUL character in {name!r}", "remove it")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        what = f"half of a surrogate pair in {name!r}, which is no character"
        return Problem("characters", line, what, "an emoji in JSON is two \\u escapes, or stands as it is")
    return None


def _twice(row: Row | Problem, found: Question, first: Question, where: str) -> Problem:
    derived = isinstance(row, Row) and not _text(row.values.get("id")).strip()
    what = "the same question as on" if derived else f"id {found.id!r} is also on"
    if content(found) == content(first):
        return Problem(
            "duplicate", row.line, f"{what} {where}", "delete one of the two, or write a copy with --fix OUT"
        )
    return Problem("id", row.line, f"{what} {where}", "keep one of the two")
