"""Parsers of MLflow's protocol: any body gives rows or a proper error."""

import asyncio
import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from fledge.core.errors import InputError
from fledge.core.limits import Limits
from fledge.prompts.prompt import Prompt
from fledge.serving.invocations import CSV, JSON, ParsedRequest, _fill, _parse, _read_csv, read_rows
from fledge.serving.request_models import read_json

LIMITS = Limits(max_rows=5)
PROMPTS = {
    ("question",): Prompt("one", 1, "{{question}}"),
    ("question", "context"): Prompt("two", 1, "{{question}} {{context}}"),
}
NAMES = st.sampled_from(list(PROMPTS))
FORMS = ["dataframe_split", "dataframe_records", "instances", "inputs", "messages", "prompt", "input", "params"]
OTHERS = ["question", "context", "columns", "data", "role", "content", "user", "max_tokens", "n"]
WORDS = st.sampled_from([*FORMS, *OTHERS])
ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | WORDS
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(WORDS | st.text(), inner, max_size=6),
    max_leaves=30,
)
TEXTS = st.text(min_size=1).filter(str.strip)
T = TypeVar("T")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as opened:
        yield opened


def _read_or_none(read: Callable[[], T]) -> T | None:
    """Return the result, or None for an input error; any other exception is a failure."""
    try:
        return read()
    except InputError as error:
        if not error.message:
            raise
    except HTTPException as error:
        if error.status_code != 400 or not error.detail:
            raise
    return None


def _read(runner: asyncio.Runner, body: bytes, kind: str, names: tuple[str, ...]) -> ParsedRequest | None:
    def parse() -> ParsedRequest:
        value = read_json(body, LIMITS.max_json_depth) if kind == JSON else None
        return runner.run(_parse(body, kind, value, PROMPTS[names], LIMITS))

    parsed = _read_or_none(parse)
    if parsed is not None:
        assert len(parsed.items) <= LIMITS.max_rows
        asked = _read_or_none(lambda: [_fill(PROMPTS[names], item) for item in parsed.items]) or []
        assert all(isinstance(prompt, str) or all(len(turn) == 2 for turn in prompt) for prompt in asked)
    return parsed


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode), st.sampled_from([JSON, CSV]), NAMES)
def test_any_bytes_are_read_or_refused(runner: asyncio.Runner, body: bytes, kind: str, names: tuple[str, ...]) -> None:
    _read(runner, body, kind, names)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FORMS), VALUES, max_size=3) | VALUES, NAMES)
def test_any_json_is_read_or_refused(runner: asyncio.Runner, value: Any, names: tuple[str, ...]) -> None:
    _read(runner, json.dumps(value).encode(), JSON, names)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(1, 40))
def test_json_is_limited_in_depth_and_read_like_the_standard_library(body: bytes, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    if depth <= 32:
        read_json(nested, 32)
    else:
        with pytest.raises(HTTPException, match="nested more than 32 deep"):
            read_json(nested, 32)
    value = _read_or_none(lambda: read_json(body, 32))
    if value is not None:
        assert value == json.loads(body)


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=5), NAMES, st.sampled_from(FORMS[:4]))
def test_valid_tables_are_read(runner: asyncio.Runner, texts: list[str], names: tuple[str, ...], form: str) -> None:
    rows = [dict.fromkeys(names, text) for text in texts]
    split = {"columns": ["more", *names], "data": [[0, *row.values()] for row in rows]}
    tables: dict[str, list[Any]] = {"dataframe_split": [split], "inputs": [rows, dict.fromkeys(names, texts)]}
    for table in tables.get(form, [rows]):
        parsed = _read(runner, json.dumps({form: table}).encode(), JSON, names)
        assert parsed is not None
        assert parsed.inputs == rows
        assert parsed.items == rows


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=5), NAMES, st.sampled_from(["\n", "\r\n"]))
def test_valid_csv_is_read(texts: list[str], names: tuple[str, ...], end: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
    rows = [dict.fromkeys(names, text) for text in texts]
    writer.writerows([["more", *names], *([0, *row.values()] for row in rows)])
    found = read_rows(_read_csv(file.getvalue().encode(), names, 5), names)
    assert found == rows


@settings(deadline=None)
@given(st.binary(), NAMES, st.integers(0, 3))
def test_any_csv_is_read_or_refused(content: bytes, names: tuple[str, ...], most: int) -> None:
    for body in (content, ",".join(names).encode() + b"\n" + content):
        rows = _read_or_none(partial(_read_csv, body, names, most))
        assert len(rows or ()) <= most


@settings(deadline=None)
@given(st.lists(VALUES, max_size=5), NAMES)
def test_any_rows_are_read_or_refused(rows: list[Any], names: tuple[str, ...]) -> None:
    found = _read_or_none(lambda: read_rows(rows, names))
    assert found is None or len(found) == len(rows)
