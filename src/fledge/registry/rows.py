"""What a release is asked, in any form that MLflow hands on: a list of rows, each of variables or a conversation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.registry.columns import BARE, MESSAGES

Row = Mapping[str, str] | tuple[Message, ...]
"""The variables of the release's prompt, or the turns of a conversation, which is filled into it."""

_conversation = TypeAdapter(tuple[Message, ...])


def read_rows(given: Any, names: Sequence[str]) -> list[Row]:
    """Rows of a DataFrame, a dict, a list of dicts or texts, a text, or messages; `names` are the prompt's variables.

    A dict may hold a list for each variable. Messages are a list of `role` and `content`, alone or under `messages`
    (there as JSON text too). Raises `InputError` that tells the row.
    """
    items = [row for item in _items(given, names) for row in _spread(item, names)]
    rows = [_row(number, item, names) for number, item in enumerate(items)]
    other = next((number for number, row in enumerate(rows) if type(row) is not type(rows[0])), None)
    if other is not None:
        raise InputError(f"row {other}: {MESSAGES} and {', '.join(names)} cannot be mixed", hint="ask them apart")
    return rows


def columns(names: Sequence[str]) -> str:
    """What a row may have, in words."""
    return f"columns: {', '.join(names)}; or {MESSAGES}, a list of role and content"


def _items(given: Any, names: Sequence[str]) -> list[Any]:
    if isinstance(given, pd.Series):
        return given.tolist()
    if isinstance(given, pd.DataFrame):
        known = {BARE, MESSAGES, *names} & set(given.columns)
        if not known:
            raise InputError(f"no column is named {' or '.join(map(repr, names))}", hint=columns(names))
        given = given.to_dict("records")
        if given and all(_is_message(row.get(MESSAGES)) for row in given):  # one turn to a row: pandas took it apart
            return [{MESSAGES: [row[MESSAGES] for row in given]}]
        return list(given)
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, (list, tuple)) and not (given and all(_is_message(item) for item in given)):
        return list(given)
    return [given]


def _spread(item: Any, names: Sequence[str]) -> list[Any]:
    """A dict with a list for each variable as a row for each place in the lists."""
    if not isinstance(item, dict):
        return [item]
    lists = {name: list(item[name]) for name in names if isinstance(item.get(name), (list, tuple, np.ndarray))}
    if not lists:
        return [item]
    if len({len(values) for values in lists.values()}) > 1:
        raise InputError("the lists of the columns differ in length", hint="one value for each row")
    return [{**item, **dict(zip(lists, values, strict=True))} for values in zip(*lists.values(), strict=True)]


def _row(number: int, item: Any, names: Sequence[str]) -> Row:
    if isinstance(item, dict):
        messages = item.get(MESSAGES)
        if messages is not None and not isinstance(messages, float):  # NaN is a missing value
            return _turns(number, messages)
        if BARE in item and not any(name in item for name in names):
            item = item[BARE]
    if isinstance(item, (list, tuple, np.ndarray)):
        return _turns(number, item)
    if isinstance(item, str):
        if len(names) != 1:
            raise InputError(f"row {number}: a text alone does not say which variable it is", hint=columns(names))
        item = {names[0]: item}
    if not isinstance(item, dict):
        raise InputError(f"row {number}: {type(item).__name__} is no row", hint=columns(names))
    for name in names:
        value = item.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"row {number}: column {name!r} must be a text that is not empty", hint=columns(names))
    return {name: item[name] for name in names}


def _turns(number: int, messages: Any) -> tuple[Message, ...]:
    try:
        if isinstance(messages, str):
            turns = _conversation.validate_json(messages)
        else:
            turns = _conversation.validate_python(list(messages))
    except (ValidationError, TypeError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"row {number}: {MESSAGES} is not a conversation: {problem}",
            hint="a list of role (system, user or assistant) and content; MLflow's server wants dataframe_records",
        ) from None
    if not turns:
        raise InputError(f"row {number}: {MESSAGES} is empty", hint="a list of role and content")
    return turns


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and "role" in item and "content" in item
