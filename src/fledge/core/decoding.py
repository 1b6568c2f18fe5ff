"""Decode dataclasses from JSON, with strict checks of fields and types. Standard library only."""

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
    """JSON does not match the dataclass."""


def read_json(kind: type[T], path: Path) -> T:
    """Return the dataclass in a JSON file. Raises `OSError`, and `DecodeError` that names file and field."""
    try:
        return decode(kind, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        hint = "if another version of fledge wrote it, restart the endpoint with this one"
        raise DecodeError(f"{path}: {error}", hint) from None


def decode(kind: type[T], value: object) -> T:
    """Return the dataclass in a value of `json.loads`. Raises `DecodeError` that names the field.

    Fields may be str, int, float, bool, None, `Literal`, unions, tuples, mappings with string keys, dataclasses, and
    `object` for any value. An int is accepted as a float.
    """
    decoded: T = _decode(kind, value, "")
    return decoded


@cache
def _type_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return value
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    if origin in (typing.Union, UnionType):
        return _decode_union(args, value, path)
    if origin is tuple:
        return _decode_tuple(args, value, path)
    if origin is Mapping:
        return {
            name: _decode(args[1], item, _join_path(path, name)) for name, item in _require_object(value, path).items()
        }
    if kind is float and type(value) is int:
        return float(value)
    if value not in args if origin is typing.Literal else type(value) is not kind:
        raise _type_error(kind, value, path)
    return value


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    known = {item.name: item for item in fields(kind)}
    values: dict[str, Any] = {}
    for name, item in _require_object(value, path).items():
        if name not in known:
            raise DecodeError(f"unknown field {_join_path(path, name)!r}")
        values[name] = _decode(_type_hints(kind)[name], item, _join_path(path, name))
    for name, item in known.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise DecodeError(f"missing field {_join_path(path, name)!r}")
    return kind(**values)


def _decode_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if type(value) in kinds:  # int | float keeps an int
        return value
    if float in kinds and type(value) is int:
        return float(value)
    nested = [kind for kind in kinds if kind not in PLAIN]
    if len(nested) != 1:
        raise _type_error(" or ".join(map(_type_name, kinds)), value, path)
    return _decode(nested[0], value, path)


def _decode_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, list):
        raise _type_error("list", value, path)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise _type_error(f"list of {len(kinds)}", value, path)
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_decode(kind, item, _join_path(path, str(number))) for number, (kind, item) in pairs)


def _require_object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _type_error("object", value, path)
    return value


def _join_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return "null" if kind is NoneType else str(getattr(kind, "__name__", kind))


def _type_error(kind: Any, value: Any, path: str) -> DecodeError:
    expected = kind if isinstance(kind, str) else _type_name(kind)
    return DecodeError(f"{f'field {path!r}' if path else 'the value'} must be {expected}, not {value!r:.100}")
