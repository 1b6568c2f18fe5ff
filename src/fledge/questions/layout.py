"""Layout of a question set: column names, header line, and the part of a text that is the reference."""

import json
import re
import shlex
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import regex
import yaml

from fledge.core.errors import InputError
from fledge.core.settings import option, out_of_range

LONGEST_MATCHING_S = 10.0  # in total for all references of a set
_NEXT_PAIR = re.compile(r",(?=[^,=]+=)")  # a comma inside a column name is not followed by NAME=


class Nested(str):
    """A list or mapping as YAML source text."""

    __slots__ = ()


class Absent:
    """Type of `ABSENT`, the value at a missing path."""


ABSENT = Absent()


@dataclass(frozen=True)
class QuestionLayout:
    """Mapping of a set's own columns to question, reference and so on."""

    GROUP: ClassVar = "Question files"

    columns: tuple[str, ...] = option(
        (),
        'column mapping, as question=Question,reference="Best Answer"; a path into nested JSON as question=turns.0',
        strip=False,
    )
    reference_pattern: str = option(
        "", "regular expression for the reference: the first group of its last match, as '#### (.+)'"
    )
    header_row: int = option(1, "line number of a CSV file's header")

    def __post_init__(self) -> None:
        problems = [*out_of_range(self, ("header_row", 1, 100_000)), *self._find_column_problems()]
        try:
            regex.compile(self.reference_pattern)
        except (regex.error, RecursionError, OverflowError) as error:
            problems.append(f"reference_pattern {self.reference_pattern!r} is not a regular expression: {error}")
        if problems:
            raise ValueError("; ".join(problems))

    def refuse_header_row(self, source: str) -> None:
        """Raise `InputError` if a header line is given for a format without one."""
        if self.header_row != 1:
            raise InputError(
                f"--header-row applies to CSV files only, and {source} is not one", hint="leave out --header-row"
            )

    @property
    def sources(self) -> dict[str, str]:
        """Source of each column in `columns`, by its new name."""
        return dict(self._split_columns())

    @property
    def flags(self) -> str:
        """Command-line flags of this layout, each with a leading space."""
        header = "" if self.header_row == 1 else str(self.header_row)
        given = {
            "--columns": ",".join(self.columns),
            "--reference-pattern": self.reference_pattern,
            "--header-row": header,
        }
        return "".join(f" {flag} {shlex.quote(value)}" for flag, value in given.items() if value)

    def _split_columns(self) -> Iterator[tuple[str, str]]:
        for part in _NEXT_PAIR.split(",".join(self.columns)) if self.columns else ():
            name, _, source = (text.strip() for text in part.partition("="))
            quoted = len(source) > 1 and source[0] == source[-1] and source[0] in "\"'"
            yield name, source[1:-1] if quoted else source

    def _find_column_problems(self) -> Iterator[str]:
        seen = set()
        for name, source in self._split_columns():
            if not (name and source):
                yield f"columns must be NAME=COLUMN, not {','.join(self.columns)!r}"
            if name in seen:
                yield f"columns name {name!r} twice"
            seen.add(name)


PLAIN = QuestionLayout()


def column_flags(sources: Mapping[str, str]) -> str:
    """Format the `--columns` flag for this mapping."""
    return f"--columns {shlex.quote(','.join(f'{name}={source}' for name, source in sources.items()))}"


def value_at(values: Mapping[Any, Any], source: str) -> Any:
    """Return the column `source`, or the value at that path in nested JSON, as `turns.0`; `ABSENT` if missing."""
    if source in values:
        return values[source]
    value: Any = values
    for step in source.split("."):
        value = _descend(_parse_nested(value), step)
    return value


def _descend(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step, ABSENT)
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return ABSENT


def _parse_nested(value: Any) -> Any:
    """Parse a list or object that a CSV or YAML file holds as text."""
    try:
        if isinstance(value, Nested):
            return yaml.BaseLoader(value).get_single_data()  # keeps scalars as text
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            return json.loads(value)
    except (ValueError, RecursionError, yaml.YAMLError):
        return value
    return value


class ReferencePattern:
    """Extracts references from longer texts, within `LONGEST_MATCHING_S` in total."""

    def __init__(self, pattern: str) -> None:
        self._pattern = regex.compile(pattern)
        self._left_s = LONGEST_MATCHING_S

    def find(self, text: str) -> str:
        """Return the first group of the last match, or the match without groups; an empty string without a match.

        Raises `TimeoutError` when the total time is used up.
        """
        if self._left_s <= 0:
            raise TimeoutError
        started = time.perf_counter()
        last = deque(self._pattern.finditer(text, timeout=self._left_s), maxlen=1)
        self._left_s -= time.perf_counter() - started
        if not last:
            return ""
        group = last[0][1] if self._pattern.groups else None
        return str(last[0][0] if group is None else group)
