"""Decode JSON into dataclasses strictly: no missing, unknown or mistyped field. Standard library only."""

import json
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar

from fledge.core.errors import InputError

T = TypeVar("T")
PLAIN = (str, int, float, bool, NoneType)


class DecodeError(InputError):
    """Invalid JSON, or JSON that does not fit the dataclass."""


def read_json(kind: type[T], path: Path) -> T:
    """Read a dataclass from a file. Raises `OSError`, and `DecodeError` that names file and field."""
    try:
        return decode(kind, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        hint = "if another version of fledge wrote it, start the endpoint again with this one"
        raise DecodeError(f"{path}: {error}", hint) from None


def decode(kind: type[T], value: object) -> T:
    """Return the dataclass for a value from `json.loads`. Raises `DecodeError` that names the field.

    Fields may be str, int, float, bool, None, `Literal`, unions, tuples, mappings by name and dataclasses; `object` is
    any value. An int is accepted as a float.
    """
    decoded: T = _decode(kind, value, "")
    return decoded


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, place: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return value
    if is_dataclass(kind):
        return _dataclass(kind, value, place)
    if origin in (typing.Union, UnionType):
        return _union(args, value, place)
    if origin is tuple:
        return _tuple(args, value, place)
    if origin is Mapping:
        return {name: _decode(args[1], item, _within(place, name)) for name, item in _object(value, place).items()}
    if kind is float and type(value) is int:
        return float(value)
    if value not in args if origin is typing.Literal else type(value) is not kind:
        raise _mistyped(kind, value, place)
    return value


def _dataclass(kind: Any, value: Any, place: str) -> Any:
    known = {item.name: item for item in fields(kind)}
    values: dict[str, Any] = {}
    for name, item in _object(value, place).items():
        if name not in known:
            raise DecodeError(f"unknown field {_within(place, name)!r}")
        values[name] = _decode(_hints(kind)[name], item, _within(place, name))
    for name, item in known.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise DecodeError(f"missing field {_within(place, name)!r}")
    return kind(**values)


def _union(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if type(value) in kinds:  # an int stays one where a float may stand too
        return value
    if float in kinds and type(value) is int:
        return float(value)
    nested = [kind for kind in kinds if kind not in PLAIN]
    if len(nested) != 1:
        raise _mistyped(" or ".join(map(_named, kinds)), value, place)
    return _decode(nested[0], value, place)


def _tuple(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if not isinstance(value, list):
        raise _mistyped("list", value, place)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise _mistyped(f"list of {len(kinds)}", value, place)
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_decode(kind, item, _within(place, str(number))) for number, (kind, item) in pairs)


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mistyped("object", value, place)
    return value


def _within(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _named(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return "null" if kind is NoneType else str(getattr(kind, "__name__", kind))


def _mistyped(kind: Any, value: Any, place: str) -> DecodeError:
    wanted = kind if isinstance(kind, str) else _named(kind)
    return DecodeError(f"{f'field {place!r}' if place else 'the value'} must be {wanted}, not {value!r:.100}")
