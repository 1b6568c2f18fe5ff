"""Parsing the input of a release, in any form that MLflow passes on, into rows of variables or conversations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from fledge.core.errors import InputError
from fledge.core.texts import cell_text
from fledge.core.types import Message
from fledge.registry.columns import BARE, MESSAGES

Row = Mapping[str, str] | tuple[Message, ...]
"""The values of the prompt's variables, or the turns of a conversation that is filled into the prompt."""

_CONVERSATION = TypeAdapter(tuple[Message, ...])


def read_rows(given: Any, names: Sequence[str]) -> list[Row]:
    """Return the rows of a DataFrame, a dict, a list of dicts or texts, a text, or messages.

    `names` are the prompt's variables. A dict may hold a list for each variable. Messages are a list of `role` and
    `content`, alone or under `messages` (also as JSON text). Raises `InputError` that names the row.
    """
    items = [row for item in _split_items(given, names) for row in _expand(item, names)]
    rows = [_parse_row(number, item, names) for number, item in enumerate(items)]
    other = next((number for number, row in enumerate(rows) if type(row) is not type(rows[0])), None)
    if other is not None:
        raise InputError(
            f"row {other}: {MESSAGES} and {', '.join(names)} cannot be mixed", hint="send them in separate calls"
        )
    return rows


def describe_columns(names: Sequence[str]) -> str:
    """Return the columns that a row may have, for a hint."""
    return f"columns: {', '.join(names)}; or {MESSAGES}, a list of role and content"


def _split_items(given: Any, names: Sequence[str]) -> list[Any]:
    if isinstance(given, pd.Series):
        return given.tolist()
    if isinstance(given, pd.DataFrame):
        known = {BARE, MESSAGES, *names} & set(given.columns)
        if not known:
            raise InputError(f"no column is named {' or '.join(map(repr, names))}", hint=describe_columns(names))
        given = given.to_dict("records")
        if given and all(_is_message(row.get(MESSAGES)) for row in given):  # pandas split it into a row per turn
            return [{MESSAGES: [row[MESSAGES] for row in given]}]
        return list(given)
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, (list, tuple)) and not (given and all(_is_message(item) for item in given)):
        return list(given)
    return [given]


def _expand(item: Any, names: Sequence[str]) -> list[Any]:
    """Return the rows of a dict that holds a list for each variable; any other item is one row."""
    if not isinstance(item, dict):
        return [item]
    lists = {name: list(item[name]) for name in names if isinstance(item.get(name), (list, tuple, np.ndarray))}
    if not lists:
        return [item]
    if len({len(values) for values in lists.values()}) > 1:
        raise InputError("the column lists differ in length", hint="give one value for each row")
    return [{**item, **dict(zip(lists, values, strict=True))} for values in zip(*lists.values(), strict=True)]


def _parse_row(number: int, item: Any, names: Sequence[str]) -> Row:
    if isinstance(item, dict):
        messages = item.get(MESSAGES)
        if messages is not None and not isinstance(messages, float):  # NaN is a missing value
            return _parse_messages(number, messages)
        if BARE in item and not any(name in item for name in names):
            item = item[BARE]
    if isinstance(item, (list, tuple, np.ndarray)):
        if len(item) != len(names) or any(isinstance(value, Mapping) for value in item):
            return _parse_messages(number, item)
        item = dict(zip(names, item, strict=True))
    if isinstance(item, (str, int, float, np.generic)):
        if len(names) != 1:
            raise InputError(
                f"row {number}: a single value is ambiguous: the prompt has {len(names)} variables",
                hint=describe_columns(names),
            )
        item = {names[0]: item}
    if not isinstance(item, dict):
        raise InputError(f"row {number}: {type(item).__name__} is not a row", hint=describe_columns(names))
    return _read_cells(number, item, names)


def _read_cells(number: int, item: Mapping[Any, Any], names: Sequence[str]) -> dict[str, str]:
    row = {}
    for name in names:
        value = item.get(name)
        try:
            row[name] = cell_text(value.item() if isinstance(value, np.generic) else value)
        except InputError as error:
            raise InputError(f"row {number}: column {name!r} {error.message}", hint=describe_columns(names)) from None
    return row


def _parse_messages(number: int, messages: Any) -> tuple[Message, ...]:
    try:
        if isinstance(messages, str):
            turns = _CONVERSATION.validate_json(messages)
        else:
            turns = _CONVERSATION.validate_python(list(messages))
    except (ValidationError, TypeError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"row {number}: {MESSAGES} is not a conversation: {problem}",
            hint="use a list of role (system, user or assistant) and content; on MLflow's server as dataframe_records",
        ) from None
    if not turns:
        raise InputError(f"row {number}: {MESSAGES} is empty", hint="use a list of role and content")
    return turns


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and "role" in item and "content" in item
