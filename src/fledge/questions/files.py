"""Question sets as files: read row by row and written whole."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from fledge.core.errors import InputError
from fledge.questions.csv_rows import read_csv
from fledge.questions.encodings import decode
from fledge.questions.layout import PLAIN, Nested, QuestionLayout
from fledge.questions.question_set import KNOWN, QuestionSet
from fledge.questions.rows import Problem, Reading, Row, Rows, collect

JSONL_HINT = 'write one JSON object a line: {"question": "...", "reference": "..."}'
YAML_HINT = "write a list of entries: - question: ..."
ALIAS_HINT = "write the text out: anchors and aliases are not read"
OTHER_KINDS = {
    ".json": "write one object a line and call it .jsonl: jq -c '.[]' questions.json > questions.jsonl",
    ".xlsx": "save it as .csv, or in Python: fledge.read_questions(pandas.read_excel(...))",
}
CSV = (".csv", ".tsv")
ARROW = (".parquet", ".arrow")
NULLS = ("", "~", "null", "Null", "NULL")  # YAML 1.1
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_file(path: Path, layout: QuestionLayout = PLAIN) -> Reading:
    """All that is in a file, or in a folder of Parquet or Arrow files.

    Raises `InputError` if it cannot be read at all, or is of another kind.
    """
    kind = path.suffix.lower()
    if kind not in CSV:
        layout.refuse_header_row(str(path))
    if kind in ARROW or path.is_dir():
        from fledge.questions.arrow_files import read_arrow

        return read_arrow(path, layout)
    reader = _of_kind(path, {".jsonl": _jsonl, ".yaml": _yaml, ".yml": _yaml, **dict.fromkeys(CSV, read_csv)})
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file", hint="check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="name a file") from None
    text, notes, problems = decode(content)
    rows, guessed = read_csv(text, layout) if kind in CSV else (reader(text), ())
    return collect(str(path), "line", rows, problems, layout=layout, notes=(*notes, *guessed))


def write_file(questions: QuestionSet, path: Path, *, overwrite: bool = False) -> None:
    """Write a set so that reading it gives the same ids. Raises `InputError` if the file is there or cannot be."""
    writer = _of_kind(path, {".jsonl": jsonl, ".csv": _as_csv, ".yaml": _as_yaml, ".yml": _as_yaml})
    target = path.resolve()  # of a link, what it leads to
    temporary = target.with_name(f".fledge.{os.getpid()}")
    try:
        there = target.exists()
        if there and not overwrite:
            raise InputError(f"{path} is there already", hint="name another file, or --overwrite it")
        temporary.write_text(writer(questions), encoding="utf-8", newline="")
        if there:
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}", hint="choose another place") from None


def jsonl(questions: QuestionSet) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(item.as_row(), ensure_ascii=False) + "\n" for item in questions.questions)


def _as_csv(questions: QuestionSet) -> str:
    rows = [item.as_row() for item in questions.questions]
    used = dict.fromkeys(name for row in rows for name in row)
    file = io.StringIO(newline="")
    ordered = [name for name in KNOWN if name in used] + [name for name in used if name not in KNOWN]
    writer = csv.DictWriter(file, ordered, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _as_yaml(questions: QuestionSet) -> str:
    rows = [item.as_row() for item in questions.questions]
    text: str = yaml.dump(rows, Dumper=_YAML_DUMPER, allow_unicode=True, sort_keys=False, width=10**6)
    return text


def _of_kind(path: Path, kinds: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    kind = path.suffix.lower()
    if kind not in kinds:
        hint = OTHER_KINDS.get(kind, "use a .jsonl, .csv or .yaml file")
        raise InputError(f"{path}: not a kind of question file", hint=hint)
    return kinds[kind]


def _jsonl(text: str) -> Rows:
    if text.lstrip().startswith("["):
        hint = f"{JSONL_HINT}; a file of one list becomes one with: jq -c '.[]' FILE"
        yield Problem("syntax", 1, "not an object but a list", hint)
        return
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=_distinct)
        except _TwiceError as error:
            yield Problem("syntax", line, f"{error.args[0]!r} twice in one object", JSONL_HINT)
            continue
        except json.JSONDecodeError as error:
            yield Problem("syntax", line, f"not JSON at column {error.colno}: {error.msg}", JSONL_HINT)
            continue
        except (ValueError, RecursionError):
            yield Problem("syntax", line, "a number too long or lists too deep", JSONL_HINT)
            continue
        yield Row(line, row) if isinstance(row, dict) else Problem("syntax", line, "not an object", JSONL_HINT)


class _TwiceError(Exception):
    """A name is there twice."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _yaml(text: str) -> Rows:
    """From YAML's events: no text becomes a date or a `True`, and 100,000 rows take seconds."""
    events = yaml.parse(text, Loader=_YAML_LOADER)
    try:
        yield from _yaml_rows(events, text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        yield Problem("syntax", line, f"not YAML: {reason}", YAML_HINT)


def _yaml_rows(events: Iterator[yaml.Event], text: str) -> Rows:
    first = next(event for event in events if not isinstance(event, (yaml.StreamStartEvent, yaml.DocumentStartEvent)))
    if isinstance(first, yaml.StreamEndEvent) or _is_null(first):
        return
    if not isinstance(first, yaml.SequenceStartEvent):
        yield Problem("syntax", 1, "not a list", YAML_HINT)
        return
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        if isinstance(event, yaml.MappingStartEvent):
            yield _entry(event, events, text)
        else:
            _end(event, events)
            yield Problem("syntax", _line(event), "not an entry with a question", YAML_HINT)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            yield Problem("syntax", _line(event), "a second document", "write one list")


def _entry(start: yaml.Event, events: Iterator[yaml.Event], text: str) -> Row | Problem:
    values: dict[str, Any] = {}
    problem: Problem | None = None
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            break
        _end(key, events)
        value = next(events)
        end = _end(value, events)
        name, line = getattr(key, "value", None), _line(key)
        if isinstance(key, yaml.AliasEvent) or isinstance(value, yaml.AliasEvent):
            problem = Problem("syntax", line, "an alias, which stands for a text elsewhere", ALIAS_HINT)
        elif name is None:
            problem = Problem("syntax", line, "the name of a column is not a text", YAML_HINT)
        elif name in values:
            problem = Problem("syntax", line, f"{name!r} twice in one entry", "begin each entry with '- '")
        elif isinstance(value, yaml.ScalarEvent):
            values[name] = None if _is_null(value) else value.value
        else:
            values[name] = Nested(_written(text, value, end))
    return problem or Row(_line(start), values)


def _end(event: yaml.Event, events: Iterator[yaml.Event]) -> yaml.Event:
    """The last event of what begins with this one."""
    depth = 0
    while True:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if not depth:
            return event
        event = next(events)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _written(text: str, first: yaml.Event, last: yaml.Event) -> str:
    start, end = first.start_mark, last.end_mark
    return text[start.index : end.index].strip() if start and end else ""


def _is_null(event: yaml.Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not event.style and event.value in NULLS
