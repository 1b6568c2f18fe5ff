"""Keywords of JSON schemas: which are enforced, their values, and two schemas as one."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from fledge.core.errors import StructureError

UNSUPPORTED = frozenset(
    (
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "multipleOf"),
        *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
    )
)
OF_TYPE: Mapping[str, tuple[str, ...]] = {
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "unevaluatedProperties"),
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
COMBINED = ("$ref", "allOf", "anyOf", "oneOf")
ENFORCED = frozenset(("type", "enum", "const", *COMBINED, *(name for names in OF_TYPE.values() for name in names)))


# Keywords by the type of their value, where it is of one type.
_LISTS = ("required", "enum", "allOf", "anyOf", "oneOf", "prefixItems")
_OBJECTS = ("properties", "patternProperties")
_NUMBERS = (*OF_TYPE["number"], "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_TEXTS = ("$ref", "pattern")


def check_values(schema: Any, path: str) -> None:
    """Raise `StructureError` unless a schema is a boolean, or an object whose keywords have values of their types."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise StructureError(f"{at_path(path)} must be an object or a boolean")
    wanted = (
        (_LISTS, list, "a list"),
        (_OBJECTS, dict, "an object"),
        (_NUMBERS, (int, float), "a number"),
        (_TEXTS, str, "a text"),
        (("type",), (str, list), "a text or a list"),
    )
    for names, kinds, description in wanted:
        for name in schema.keys() & set(names):
            value = schema[name]
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise StructureError(f"{at_path(path)}: {name} must be {description}, not {json.dumps(value)[:50]}")


def at_path(path: str) -> str:
    return f"the schema at {path[:200]}" if path else "the schema"


def list_of(schema: dict[str, Any], name: str, path: str) -> list[Any]:
    values: list[Any] = schema[name]
    if not values:
        raise StructureError(f"{at_path(path)}: {name} must be a list that is not empty")
    return values


def types_of(schema: Mapping[str, Any]) -> list[str]:
    given = schema.get("type", [])
    return [given] if isinstance(given, str) else [str(item) for item in given] if isinstance(given, list) else []


def type_name(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def fits(value: Any, types: Sequence[str]) -> bool:
    name = type_name(value)
    return name in types or (name == "integer" and "number" in types)


def is_in(value: Any, values: Any) -> bool:
    return isinstance(values, list) and json.dumps(value) in map(json.dumps, values)


def read_count(schema: Mapping[str, Any], name: str, path: str) -> int | None:
    value = schema.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value != int(value):
        raise StructureError(f"{at_path(path)}: {name} must be a whole number, not {value!r}")
    return int(value)


def read_bound(value: Any, name: str, path: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise StructureError(f"{at_path(path)}: {name} must be a number, not {value!r}")
    return Decimal(str(value))


def are_disjoint(options: Sequence[Any]) -> bool:
    """Return whether no value is valid for two of the schemas, by their types and by constants of required
    properties."""
    marks = [_marks(option) for option in options]
    return all(
        any(not first[key] & second[key] for key in first.keys() & second.keys())
        for number, first in enumerate(marks)
        for second in marks[:number]
    )


def _marks(option: Any) -> dict[str, set[str]]:
    """Return the possible types, values, and values of required properties of a schema, where they are limited."""
    if not isinstance(option, dict):
        return {}
    values = _constants(option)
    if values is not None:
        types = {type_name(value) for value in values}
        return {"type": types, "value": {json.dumps(value) for value in values}}
    found: dict[str, set[str]] = {}
    if types := set(types_of(option)):
        found["type"] = types | ({"integer"} if "number" in types else set())
    for name, part in option.get("properties", {}).items():
        if name in option.get("required", ()) and (constants := _constants(part)) is not None:
            found[f"/{name}"] = {json.dumps(value) for value in constants}
    return found


def _constants(schema: Any) -> list[Any] | None:
    if not isinstance(schema, dict):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def merge(first: Any, second: Any, path: str) -> Any:
    """Return a schema for values that are valid for both. Raises `StructureError` for keywords that do not combine."""
    if first is True or first == {}:
        return second
    if second is True or second == {}:
        return first
    check_values(first, path)
    check_values(second, path)
    if not isinstance(first, dict) or not isinstance(second, dict):
        raise StructureError(f"{at_path(path)}: schemas that exclude each other")
    if second.get("unevaluatedProperties", True) is not True or _mix_items(first, second):
        raise StructureError(f"{at_path(path)}: unevaluatedProperties or items of a part cannot be enforced")
    first, second = _close(first, second, path), _close(second, first, path)
    merged = dict(first)
    for name, value in second.items():
        alone = name not in merged or merged[name] == value or name not in ENFORCED
        merged[name] = value if alone else _combine(name, merged[name], value, path)
    return merged


def _mix_items(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether `items` of one schema are all those of the array, and of the other only some."""
    return ("prefixItems" in first) != ("prefixItems" in second) and "items" in {**first, **second}


def _close(schema: dict[str, Any], other: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a schema with the properties that it has only as `additionalProperties` of the `other` one."""
    extra = other.get("additionalProperties", True)
    if extra is True or "properties" not in schema:
        return schema
    known = other.get("properties", {})
    properties = {
        name: part if name in known else False if extra is False else merge(part, extra, f"{path}/properties/{name}")
        for name, part in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _combine(name: str, first: Any, second: Any, path: str) -> Any:
    """Return the value of a keyword of two schemas."""
    if name == "properties":
        return {
            key: merge(first.get(key, True), second.get(key, True), f"{path}/properties/{key}")
            for key in {**first, **second}
        }
    if name == "required":
        return list(dict.fromkeys([*first, *second]))
    if name in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
        return max(first, second)
    if name in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
        return min(first, second)
    if name == "additionalProperties" and True in (first, second):
        return second if first is True else first
    raise StructureError(f"{at_path(path)}: two different values of {name} cannot be combined")
