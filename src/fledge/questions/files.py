"""Question sets as files: read row by row, written atomically."""

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
ALIAS_HINT = "write the text out: anchors and aliases are not supported"
OTHER_KINDS = {
    ".json": "write one object a line as .jsonl: jq -c '.[]' questions.json > questions.jsonl",
    ".xlsx": "save it as .csv, or in Python: fledge.read_questions(pandas.read_excel(...))",
}
CSV = (".csv", ".tsv")
ARROW = (".parquet", ".arrow")
NULLS = ("", "~", "null", "Null", "NULL")  # YAML 1.1
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_file(path: Path, layout: QuestionLayout = PLAIN) -> Reading:
    """Read a file, or a folder of Parquet or Arrow files, with all row errors.

    Raises `InputError` if it cannot be read at all or its format is not supported.
    """
    kind = path.suffix.lower()
    if kind not in CSV:
        layout.refuse_header_row(str(path))
    if kind in ARROW or path.is_dir():
        from fledge.questions.arrow_files import read_arrow

        return read_arrow(path, layout)
    reader = _select_by_suffix(
        path, {".jsonl": _read_jsonl, ".yaml": _read_yaml, ".yml": _read_yaml, **dict.fromkeys(CSV, read_csv)}
    )
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", hint="check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="give a readable file") from None
    text, notes, problems = decode(content)
    rows, guessed = read_csv(text, layout) if kind in CSV else (reader(text), ())
    return collect(str(path), "line", rows, problems, layout=layout, notes=(*notes, *guessed))


def write_file(questions: QuestionSet, path: Path, *, overwrite: bool = False) -> None:
    """Write a set so that reading it gives the same ids. Raises `InputError` if the file exists or writing fails."""
    writer = _select_by_suffix(
        path, {".jsonl": jsonl, ".csv": _format_csv, ".yaml": _format_yaml, ".yml": _format_yaml}
    )
    target = path.resolve()  # follow links
    temporary = target.with_name(f".fledge.{os.getpid()}")
    try:
        there = target.exists()
        if there and not overwrite:
            raise InputError(f"{path} already exists", hint="give another file, or --overwrite")
        temporary.write_text(writer(questions), encoding="utf-8", newline="")
        if there:
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}", hint="choose another place") from None


def jsonl(questions: QuestionSet) -> str:
    """Format a set as one JSON object a line."""
    return "".join(json.dumps(item.as_row(), ensure_ascii=False) + "\n" for item in questions.questions)


def _format_csv(questions: QuestionSet) -> str:
    rows = [item.as_row() for item in questions.questions]
    used = dict.fromkeys(name for row in rows for name in row)
    file = io.StringIO(newline="")
    ordered = [name for name in KNOWN if name in used] + [name for name in used if name not in KNOWN]
    writer = csv.DictWriter(file, ordered, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _format_yaml(questions: QuestionSet) -> str:
    rows = [item.as_row() for item in questions.questions]
    text: str = yaml.dump(rows, Dumper=_YAML_DUMPER, allow_unicode=True, sort_keys=False, width=10**6)
    return text


def _select_by_suffix(path: Path, kinds: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    kind = path.suffix.lower()
    if kind not in kinds:
        hint = OTHER_KINDS.get(kind, "use a .jsonl, .csv or .yaml file")
        raise InputError(f"{path}: unsupported question file", hint=hint)
    return kinds[kind]


def _read_jsonl(text: str) -> Rows:
    if text.lstrip().startswith("["):
        hint = f"{JSONL_HINT}; convert a list with: jq -c '.[]' FILE"
        yield Problem("syntax", 1, "a list, not an object", hint)
        return
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=_reject_duplicates)
        except _DuplicateNameError as error:
            yield Problem("syntax", line, f"{error.args[0]!r} twice in one object", JSONL_HINT)
            continue
        except json.JSONDecodeError as error:
            yield Problem("syntax", line, f"not JSON at column {error.colno}: {error.msg}", JSONL_HINT)
            continue
        except (ValueError, RecursionError):
            yield Problem("syntax", line, "a number too long or lists too deep", JSONL_HINT)
            continue
        yield Row(line, row) if isinstance(row, dict) else Problem("syntax", line, "not an object", JSONL_HINT)


class _DuplicateNameError(Exception):
    """A name occurs twice in an object."""


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateNameError(next(name for name in names if names.count(name) > 1))
    return found


def _read_yaml(text: str) -> Rows:
    """Read rows from YAML events: text never becomes a date or a boolean, and 100,000 rows take seconds."""
    events = yaml.parse(text, Loader=_YAML_LOADER)
    try:
        yield from _read_yaml_rows(events, text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        yield Problem("syntax", line, f"not YAML: {reason}", YAML_HINT)


def _read_yaml_rows(events: Iterator[yaml.Event], text: str) -> Rows:
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
            yield _read_entry(event, events, text)
        else:
            _skip_node(event, events)
            yield Problem("syntax", _line(event), "not an entry with a question", YAML_HINT)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            yield Problem("syntax", _line(event), "a second document", "write one list")


def _read_entry(start: yaml.Event, events: Iterator[yaml.Event], text: str) -> Row | Problem:
    values: dict[str, Any] = {}
    problem: Problem | None = None
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            break
        _skip_node(key, events)
        value = next(events)
        end = _skip_node(value, events)
        name, line = getattr(key, "value", None), _line(key)
        if isinstance(key, yaml.AliasEvent) or isinstance(value, yaml.AliasEvent):
            problem = Problem("syntax", line, "an alias, which refers to another text", ALIAS_HINT)
        elif name is None:
            problem = Problem("syntax", line, "the name of a column is not text", YAML_HINT)
        elif name in values:
            problem = Problem("syntax", line, f"{name!r} twice in one entry", "begin each entry with '- '")
        elif isinstance(value, yaml.ScalarEvent):
            values[name] = None if _is_null(value) else value.value
        else:
            values[name] = Nested(_source_text(text, value, end))
    return problem or Row(_line(start), values)


def _skip_node(event: yaml.Event, events: Iterator[yaml.Event]) -> yaml.Event:
    """Return the last event of the node that starts with this one."""
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


def _source_text(text: str, first: yaml.Event, last: yaml.Event) -> str:
    start, end = first.start_mark, last.end_mark
    return text[start.index : end.index].strip() if start and end else ""


def _is_null(event: yaml.Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not event.style and event.value in NULLS
