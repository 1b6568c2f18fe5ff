"""How a question set is laid out: what its columns are called, where its header is, which part of a text is the
reference."""

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

LONGEST_MATCHING_S = 10.0  # for all references of a set together
_NEXT_PAIR = re.compile(r",(?=[^,=]+=)")  # a comma within the name of a column has no `=` behind it


class Nested(str):
    """A list or a mapping, as it is written in a YAML file."""

    __slots__ = ()


class Absent:
    """The value of what is not there."""


ABSENT = Absent()


@dataclass(frozen=True)
class QuestionLayout:
    """What to read as question, reference and so on, where a set has other names for them."""

    GROUP: ClassVar = "Question files"

    columns: tuple[str, ...] = option(
        (),
        'names of columns in the question set, as question=Question,reference="Best Answer"; a part of nested JSON as '
        "question=turns.0",
        strip=False,
    )
    reference_pattern: str = option(
        "", "regular expression for the reference: the first group of its last match, as '#### (.+)'"
    )
    header_row: int = option(1, "line of a CSV file with the names of its columns")

    def __post_init__(self) -> None:
        problems = [*out_of_range(self, ("header_row", 1, 100_000)), *self._problems_of_columns()]
        try:
            regex.compile(self.reference_pattern)
        except (regex.error, RecursionError, OverflowError) as error:
            problems.append(f"reference_pattern {self.reference_pattern!r} is not a regular expression: {error}")
        if problems:
            raise ValueError("; ".join(problems))

    def refuse_header_row(self, source: str) -> None:
        """Raise `InputError` where a line is named as the header of what has none."""
        if self.header_row != 1:
            raise InputError(
                f"--header-row applies to CSV files only, and {source} is not one", hint="leave out --header-row"
            )

    @property
    def sources(self) -> dict[str, str]:
        """Where each column of `columns` comes from, by its new name."""
        return dict(self._pairs())

    @property
    def flags(self) -> str:
        """The flags for it, each with a space in front."""
        header = "" if self.header_row == 1 else str(self.header_row)
        given = {
            "--columns": ",".join(self.columns),
            "--reference-pattern": self.reference_pattern,
            "--header-row": header,
        }
        return "".join(f" {flag} {shlex.quote(value)}" for flag, value in given.items() if value)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for part in _NEXT_PAIR.split(",".join(self.columns)) if self.columns else ():
            name, _, source = (text.strip() for text in part.partition("="))
            quoted = len(source) > 1 and source[0] == source[-1] and source[0] in "\"'"
            yield name, source[1:-1] if quoted else source

    def _problems_of_columns(self) -> Iterator[str]:
        seen = set()
        for name, source in self._pairs():
            if not (name and source):
                yield f"columns are NAME=COLUMN, not {','.join(self.columns)!r}"
            if name in seen:
                yield f"columns name {name!r} twice"
            seen.add(name)


PLAIN = QuestionLayout()


def column_flags(sources: Mapping[str, str]) -> str:
    """The flag that reads these columns of a set by their new names."""
    return f"--columns {shlex.quote(','.join(f'{name}={source}' for name, source in sources.items()))}"


def value_at(values: Mapping[Any, Any], source: str) -> Any:
    """The column called `source`, or what is at that path in nested JSON, as `turns.0`; `ABSENT` where nothing is."""
    if source in values:
        return values[source]
    value: Any = values
    for step in source.split("."):
        value = _step(_nested(value), step)
    return value


def _step(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step, ABSENT)
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return ABSENT


def _nested(value: Any) -> Any:
    """A list or an object that a CSV or YAML file holds as a text."""
    try:
        if isinstance(value, Nested):
            return yaml.BaseLoader(value).get_single_data()  # texts stay as they are written
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            return json.loads(value)
    except (ValueError, RecursionError, yaml.YAMLError):
        return value
    return value


class ReferencePattern:
    """Takes references out of longer texts, all of them within `LONGEST_MATCHING_S`."""

    def __init__(self, pattern: str) -> None:
        self._pattern = regex.compile(pattern)
        self._left_s = LONGEST_MATCHING_S

    def find(self, text: str) -> str:
        """The first group of the last match, or the match where it has no group; empty where nothing matches.

        Raises `TimeoutError` once the time is spent.
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
