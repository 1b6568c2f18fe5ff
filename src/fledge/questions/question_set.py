"""Question sets: rows of id, question, optional reference, topic and split, from JSONL, CSV or YAML."""

import csv
import hashlib
import io
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fledge.core.errors import InputError
from fledge.models.embedded.corpus import load_corpus

KNOWN = ("id", "question", "reference", "topic", "split")
MAXIMUM_CHARACTERS = 200_000


@dataclass(frozen=True)
class Question:
    """One row; `columns` are further columns that a prompt may use as variables."""

    id: str
    question: str
    reference: str | None = None
    topic: str = ""
    split: str = ""
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """What a template can be filled with."""
        return {**self.columns, "question": self.question}


@dataclass(frozen=True)
class QuestionSet:
    """Questions in their order and where they came from."""

    source: str
    questions: tuple[Question, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over ids, questions and references."""
        rows = [(item.id, item.question, item.reference) for item in self.questions]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def only(self, split: str) -> "QuestionSet":
        """The questions of one split."""
        return QuestionSet(self.source, tuple(item for item in self.questions if item.split == split))

    def sample(self, size: int, seed: int = 0) -> "QuestionSet":
        """`size` questions drawn evenly over topics; all of them if there are no more."""
        shuffled = list(self.questions)
        random.Random(seed).shuffle(shuffled)
        rank: dict[str, int] = {}
        keyed = []
        for item in shuffled:
            rank[item.topic] = rank.get(item.topic, 0) + 1
            keyed.append((rank[item.topic], item))
        chosen = {item.id for _, item in sorted(keyed, key=lambda pair: pair[0])[:size]}
        return QuestionSet(self.source, tuple(item for item in self.questions if item.id in chosen))


def default_questions() -> QuestionSet:
    """The questions that the model in the box knows: split `train` as trained on, split `test` held out."""
    rows = []
    for entry in load_corpus():
        for split, texts in (("train", entry.phrasings), ("test", entry.held_out)):
            for number, text in enumerate(texts, 1):
                rows.append(Question(f"{entry.id}-{split}-{number}", text, entry.answer, entry.topic, split))
    return QuestionSet("default", tuple(rows))


def read_questions(source: str) -> QuestionSet:
    """The question set in the file `source` (`.jsonl`, `.csv`, `.yaml`), or fledge's own for `default`.

    Raises `InputError` that names the file, the line and the fix.
    """
    if source == "default":
        return default_questions()
    path = Path(source)
    readers = {".jsonl": _jsonl, ".csv": _csv, ".yaml": _yaml, ".yml": _yaml}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: not a kind of question file", hint="use a .jsonl, .csv or .yaml file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file", hint="check the path given to --questions") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="name a file") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8", hint="save the file as UTF-8") from None
    questions = tuple(_questions(path, reader(path, text)))
    if not questions:
        raise InputError(f"{path}: no questions in it", hint='one JSON object a line: {"question": "..."}')
    return QuestionSet(str(path), questions)


def _questions(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Question]:
    seen: dict[str, int] = {}
    for line, row in rows:
        if "question" not in row:
            raise InputError(
                f"{path}, line {line}: no column 'question', only {', '.join(map(repr, row)) or 'nothing'}",
                hint="name the column with the questions 'question'",
            )
        texts = {str(key): "" if value is None else str(value) for key, value in row.items()}
        _check_characters(f"{path}, line {line}", texts)
        question = texts["question"]
        if not question.strip():
            raise InputError(f"{path}, line {line}: the question is empty", hint="write a question, or delete the line")
        if len(question) > MAXIMUM_CHARACTERS:
            raise InputError(
                f"{path}, line {line}: the question has {len(question)} characters, {MAXIMUM_CHARACTERS} at most",
                hint="shorten it",
            )
        own = texts.get("id", "").strip()
        identity = own or hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        if identity in seen:
            what = f"id {identity!r} is also on" if own else "the same question as on"
            raise InputError(f"{path}, line {line}: {what} line {seen[identity]}", hint="keep one of the two lines")
        seen[identity] = line
        yield Question(
            id=identity,
            question=question,
            reference=texts.get("reference") or None,
            topic=texts.get("topic", ""),
            split=texts.get("split", ""),
            columns={key: value for key, value in texts.items() if key not in KNOWN},
        )


def _check_characters(where: str, texts: dict[str, str]) -> None:
    """Refuse what neither a model nor a database takes."""
    for name, text in texts.items():
        if "\0" in text:
            raise InputError(f"{where}: a NUL character in {name!r}", hint="remove it")
        if not text.isascii() and re.search("[\ud800-\udfff]", text):
            raise InputError(
                f"{where}: half of a surrogate pair in {name!r}, which is no character",
                hint="an emoji in JSON is two \\u escapes, or stands as it is",
            )


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {line}, column {error.colno}: not JSON: {error.msg}",
                hint='write one JSON object a line: {"question": "...", "reference": "..."}',
            ) from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: not an object", hint='write {"question": "..."}')
        yield line, row


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{path}, line {reader.line_num}: {'more' if None in row else 'fewer'} columns than the first line",
                    hint='put texts with commas between double quotes: "one, two"',
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}", hint="close every double quote") from None


def _yaml(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    hint = "write a list of entries: - question: ..."
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        rows = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: not YAML: {getattr(error, 'problem', error)}", hint=hint) from None
    if rows is None:
        return
    if not isinstance(rows, list) or not isinstance(node, yaml.SequenceNode):
        raise InputError(f"{path}, line 1: not a list", hint=hint)
    for item, row in zip(node.value, rows, strict=True):
        line = item.start_mark.line + 1
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: not an entry with a question", hint=hint)
        yield line, row
