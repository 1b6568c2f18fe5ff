"""JSON schemas as grammars.

Objects that declare properties have no others, in the order of the schema; strings escape only what JSON requires. What
a grammar cannot enforce is refused by name, annotations and unknown keywords are ignored, as JSON Schema says.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from fledge.core.errors import StructureError
from fledge.engines.grammars.expressions import (
    MAX_CHARACTERS,
    alternatives,
    any_text,
    literal,
    repeat,
    sequence,
)
from fledge.engines.grammars.formats import FORMATS
from fledge.engines.grammars.keywords import (
    ENFORCED,
    OF_TYPE,
    UNSUPPORTED,
    are_disjoint,
    at_path,
    check_values,
    fits,
    is_in,
    list_of,
    merge,
    read_bound,
    read_count,
    types_of,
)
from fledge.engines.grammars.numbers import INTEGER, NUMBER, Bounds, integer_within, number_within
from fledge.engines.grammars.regex import ALL, json_characters, match_lengths, search_in_json

MAX_DEPTH = 100
MAX_SCHEMAS = 5_000
# White space between the tokens of JSON; unlimited, small models would repeat it until their limit.
SPACE = '("\\n" [ ]{0,16} | [ ])?'
_SPACES = "space"
_COLON = f'{_SPACES} ":" {_SPACES}'
_COMMA = f'{_SPACES} "," {_SPACES}'

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def json_schema_grammar(schema: Any) -> str:
    """Return the grammar of JSON that is valid for `schema`, an object or a boolean.

    Raises `StructureError` with the path in the schema for what cannot be enforced, or accepts nothing.
    """
    converter = _Converter(schema)
    try:
        root = converter.value(schema, "")
        return converter.grammar(root)
    except RecursionError:
        raise StructureError("the schema is nested too deep") from None


class _Converter:
    """Collects the rules of a schema. Each method returns an expression."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._rules: dict[str, str] = {_SPACES: SPACE}
        self._names: dict[str, str] = {}  # of rules by expression
        self._referenced: dict[str, str] = {}  # names of rules by reference
        self._open: list[str] = []  # references that are being resolved without a value in between
        self._depth = 0
        self._converted = 0

    def grammar(self, root: str) -> str:
        text = "\n".join(f"{name} ::= {body}" for name, body in {"root": root, **self._rules}.items())
        if len(text) > MAX_CHARACTERS:
            raise StructureError(f"the schema needs a grammar of {len(text)} characters; at most {MAX_CHARACTERS}")
        return f"{text}\n"

    def value(self, schema: Any, path: str) -> str:
        """Return the expression of the values that are valid for a schema."""
        if schema is True or schema == {}:
            return self._any()
        if schema is False:
            raise StructureError(f"{at_path(path)} is false: it accepts no value")
        check_values(schema, path)
        self._depth += 1
        self._converted += 1
        if self._converted > MAX_SCHEMAS:
            raise StructureError(f"the schema has more than {MAX_SCHEMAS} parts, with those that references repeat")
        if self._depth > MAX_DEPTH:
            raise StructureError(f"the schema is nested more than {MAX_DEPTH} deep")
        try:
            return self._object_schema(schema, path)
        finally:
            self._depth -= 1

    def _object_schema(self, schema: dict[str, Any], path: str) -> str:
        for name in schema:
            if name in UNSUPPORTED and not (name == "uniqueItems" and schema[name] is False):
                raise StructureError(f"{at_path(path)}: {name} cannot be enforced")
        relevant = {name: value for name, value in schema.items() if name in ENFORCED}
        if not relevant:
            return self._any()
        if "$ref" in relevant:
            return self._reference(relevant, path)
        if "allOf" in relevant:
            return self.value(self._merge_all(relevant, path), path)
        for name in ("anyOf", "oneOf"):
            if name in relevant:
                return self._union(relevant, name, path)
        if "const" in relevant or "enum" in relevant:
            return self._constants(relevant, path)
        return self._typed(relevant, path)

    def _reference(self, schema: dict[str, Any], path: str) -> str:
        target = schema["$ref"]
        others = {name: value for name, value in schema.items() if name != "$ref"}
        if target in self._open:
            raise StructureError(f"{at_path(path)}: the reference {target!r} leads back to itself")
        self._open.append(target)
        try:
            found = self._resolve(target, path)
            if others:
                return self.value(merge(found, others, path), path)
            if target not in self._referenced:
                name = self._referenced[target] = f"ref{len(self._referenced)}"
                self._rules[name] = ""  # keeps the order of the rules
                self._rules[name] = self.value(found, path)
            return self._referenced[target]
        finally:
            self._open.pop()

    def _resolve(self, target: Any, path: str) -> Any:
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise StructureError(f"{at_path(path)}: only references within the schema are supported, not {target!r}")
        found = self._document
        for part in target.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise StructureError(f"{at_path(path)}: the reference {target!r} leads nowhere")
        return found

    def _merge_all(self, schema: dict[str, Any], path: str) -> Any:
        members = list_of(schema, "allOf", path)
        merged: Any = {name: value for name, value in schema.items() if name != "allOf"}
        for member in members:
            merged = merge(merged, self._without_reference(member, path), path)
        return merged

    def _without_reference(self, schema: Any, path: str) -> Any:
        followed = list(self._open)
        while isinstance(schema, dict) and "$ref" in schema:
            if schema["$ref"] in followed:
                raise StructureError(f"{at_path(path)}: the reference {schema['$ref']!r} leads back to itself")
            followed.append(schema["$ref"])
            others = {name: value for name, value in schema.items() if name != "$ref"}
            schema = merge(self._resolve(schema["$ref"], path), others, path)
        check_values(schema, path)
        return schema

    def _union(self, schema: dict[str, Any], name: str, path: str) -> str:
        """Return the options of an `anyOf` or `oneOf`, each with the schema's other keywords."""
        options = list_of(schema, name, path)
        others = {key: value for key, value in schema.items() if key != name}
        if name == "oneOf" and not are_disjoint([self._without_reference(option, path) for option in options]):
            message = f"{at_path(path)}: oneOf with options that may overlap cannot be enforced"
            raise StructureError(message, hint="use anyOf")
        return alternatives(
            self.value(
                merge(others, option, f"{path}/{name}/{number}") if others else option, f"{path}/{name}/{number}"
            )
            for number, option in enumerate(options)
        )

    def _constants(self, schema: dict[str, Any], path: str) -> str:
        values = [schema["const"]] if "const" in schema else list_of(schema, "enum", path)
        if "const" in schema and "enum" in schema:
            values = [value for value in values if is_in(value, schema["enum"])]
        others = schema.keys() - {"const", "enum", "type"}
        if others:
            raise StructureError(f"{at_path(path)}: {min(others)} beside enum or const cannot be enforced")
        types = types_of(schema)
        values = [value for value in values if not types or fits(value, types)]
        if not values:
            raise StructureError(f"{at_path(path)}: no value of enum has the type {' or '.join(types)}")
        return any_text([json.dumps(value, ensure_ascii=False) for value in values])

    def _typed(self, schema: dict[str, Any], path: str) -> str:
        makers: dict[str, Callable[[dict[str, Any], str], str]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "number": self._number,
            "integer": self._number,
            "boolean": lambda *_: '("true" | "false")',
            "null": lambda *_: '"null"',
        }
        types = types_of(schema) or [kind for kind, names in OF_TYPE.items() if schema.keys() & set(names)]
        for kind in types:
            if kind not in _TYPES:
                raise StructureError(f"{at_path(path)}: unknown type {kind!r}")
        if "number" in types:
            types = [kind for kind in types if kind != "integer"]
        return alternatives(makers[kind]({**schema, "type": kind}, path) for kind in types)

    def _any(self) -> str:
        if "any" not in self._rules:
            self._rules["any"] = ""
            pair = sequence([self._key(), _COLON, "any"])
            self._rules["any"] = alternatives(
                [
                    self._delimited('"{"', pair, '"}"'),
                    self._delimited('"["', "any", '"]"'),
                    self._plain_string(),
                    f"({self._name(NUMBER)})",
                    '("true" | "false" | "null")',
                ]
            )
        return "any"

    def _delimited(self, opening: str, item: str, closing: str, least: int = 0, most: int | None = None) -> str:
        """Return a list of items within brackets."""
        more = sequence([_COMMA, item])
        if most == 0:
            inside = ""
        else:
            rest = repeat(more, max(0, least - 1), None if most is None else most - 1)
            inside = sequence([item, "" if most == 1 else rest])
            inside = inside if least else f"({inside})?"
        return sequence([opening, _SPACES, inside, _SPACES, closing])

    def _object(self, schema: dict[str, Any], path: str) -> str:
        properties = schema.get("properties", {})
        required = [name for name in schema.get("required", ()) if isinstance(name, str)]
        extra = _extra_properties(schema)
        missing = [name for name in required if name not in properties]
        if missing and extra is False:
            raise StructureError(f"{at_path(path)}: the required property {missing[0]!r} is not allowed")
        properties = {**properties, **dict.fromkeys(missing, extra)}
        least, most = read_count(schema, "minProperties", path), read_count(schema, "maxProperties", path)
        if not properties:
            return self._map(schema, least or 0, most, path)
        if schema.get("propertyNames", True) is not True or "patternProperties" in schema:
            raise StructureError(
                f"{at_path(path)}: propertyNames and patternProperties beside properties cannot be enforced"
            )
        optional = [name for name in properties if name not in required and properties[name] is not False]
        required = [*required, *optional[: max(0, (least or 0) - len(set(required)))]]
        if len(set(required)) < (least or 0) or (most is not None and len(set(required)) > most):
            raise StructureError(f"{at_path(path)}: the number of properties cannot be enforced")
        if most is not None and len(properties) > most:
            optional = []
        names = [name for name in properties if name in required or name in optional]
        pairs = [
            sequence(
                [
                    literal(json.dumps(name, ensure_ascii=False)),
                    _COLON,
                    self._part(properties[name], f"{path}/properties/{name}"),
                ]
            )
            for name in names
        ]
        return sequence(['"{"', _SPACES, self._pairs(pairs, [name in required for name in names]), _SPACES, '"}"'])

    def _part(self, schema: Any, path: str) -> str:
        """Return the name of the rule for a value within another one, where a reference may lead back."""
        open_references, self._open = self._open, []
        try:
            return self._name(self.value(schema, path))
        finally:
            self._open = open_references

    def _pairs(self, pairs: Sequence[str], required: Sequence[bool]) -> str:
        """Return pairs in their order, with commas; only `required` ones are always there."""
        after = ""  # the pairs from here on, after another one
        first = ""  # the pairs from here on, at the start
        for pair, needed in zip(reversed(pairs), reversed(required), strict=True):
            following = sequence([pair, after]) if after else pair
            if needed:
                first = following
                after = self._name(sequence([_COMMA, following]))
            else:
                first = alternatives([following, first]) if first else f"({following})?"
                after = self._name(sequence([f"({_COMMA} {pair})?", after]))
        return first

    def _map(self, schema: dict[str, Any], least: int, most: int | None, path: str) -> str:
        """Return objects whose names are not declared."""
        if least > 1:
            raise StructureError(f"{at_path(path)}: minProperties above 1 cannot be enforced without properties")
        key, value = self._key(), _extra_properties(schema)
        patterns = schema.get("patternProperties") or {}
        names = schema.get("propertyNames", True)
        if patterns:
            if names is not True or len(patterns) > 1:
                raise StructureError(
                    f"{at_path(path)}: several patternProperties, or with propertyNames, cannot be enforced"
                )
            ((pattern, value),) = patterns.items()
            key = self._name(_quoted(search_in_json(pattern)))
        elif names is not True:
            key = self._name(self.value(merge({"type": "string"}, names, path), f"{path}/propertyNames"))
        elif value is False:
            if least:
                raise StructureError(f"{at_path(path)}: minProperties is 1, and no property is allowed")
            return sequence(['"{"', _SPACES, '"}"'])
        pair = sequence([key, _COLON, self._part(value, f"{path}/additionalProperties")])
        return self._delimited('"{"', pair, '"}"', least, most)

    def _array(self, schema: dict[str, Any], path: str) -> str:
        prefix = schema.get("prefixItems", [])
        items = schema.get("items", True)
        if isinstance(items, list):  # of drafts before 2020-12
            prefix, items = items, True
        least, most = read_count(schema, "minItems", path) or 0, read_count(schema, "maxItems", path)
        if most is not None and most < least:
            raise StructureError(f"{at_path(path)}: maxItems is below minItems")
        if not prefix:
            if items is False or most == 0:
                if least:
                    raise StructureError(f"{at_path(path)}: minItems is {least}, and no item is allowed")
                return sequence(['"["', _SPACES, '"]"'])
            return self._delimited('"["', self._part(items, f"{path}/items"), '"]"', least, most)
        # All of the prefix, and no more items than needed: each such array is valid.
        if items is False and least > len(prefix):
            raise StructureError(f"{at_path(path)}: minItems is above the number of prefixItems")
        count = max(least, len(prefix)) if most is None else min(most, max(least, len(prefix)))
        parts = [self._part(part, f"{path}/prefixItems/{number}") for number, part in enumerate(prefix[:count])]
        if count > len(parts):
            parts += [self._part(items, f"{path}/items")] * (count - len(parts))
        return sequence(['"["', _SPACES, f" {_COMMA} ".join(parts), _SPACES, '"]"'])

    def _string(self, schema: dict[str, Any], path: str) -> str:
        least, most = read_count(schema, "minLength", path) or 0, read_count(schema, "maxLength", path)
        if most is not None and most < least:
            raise StructureError(f"{at_path(path)}: maxLength is below minLength")
        pattern = schema.get("pattern")
        known = FORMATS.get(str(schema.get("format")))
        if pattern is None and known is None:
            if not least and most is None:
                return self._plain_string()
            return _quoted(repeat(self._name(json_characters(ALL)), least, most))
        if pattern is not None and known is not None:
            raise StructureError(f"{at_path(path)}: pattern and format cannot be enforced together")
        source = str(known if pattern is None else pattern)
        try:
            content = search_in_json(source)
            shortest, longest = match_lengths(source)
        except StructureError as error:
            raise StructureError(f"{at_path(path)}: {error.message}") from None
        if least > shortest or (most is not None and longest > most):
            raise StructureError(f"{at_path(path)}: a length that the pattern or format does not have itself")
        return _quoted(self._name(content))

    def _number(self, schema: dict[str, Any], path: str) -> str:
        bounds = {name: read_bound(schema[name], name, path) for name in OF_TYPE["number"] if name in schema}
        integer = schema["type"] == "integer"
        if not bounds:
            return self._name(INTEGER if integer else NUMBER)
        lows = [(bounds[name], name[0] == "e") for name in ("minimum", "exclusiveMinimum") if name in bounds]
        highs = [(bounds[name], name[0] != "e") for name in ("maximum", "exclusiveMaximum") if name in bounds]
        low, without_low = max(lows, default=(None, False))
        high, with_high = min(highs, default=(None, True))
        found = Bounds(low, high, without_low=without_low, without_high=not with_high)
        try:
            return self._name((integer_within if integer else number_within)(found))
        except StructureError as error:
            raise StructureError(f"{at_path(path)}: {error.message}") from None

    def _plain_string(self) -> str:
        return self._name(_quoted(repeat(self._name(json_characters(ALL)), 0, None)))

    def _key(self) -> str:
        return self._name(_quoted(repeat(self._name(json_characters(ALL)), 1, 40)))

    def _name(self, expression: str) -> str:
        """Return the name of the rule for an expression."""
        if expression not in self._names:
            self._names[expression] = f"r{len(self._names)}"
            self._rules[self._names[expression]] = expression
        return self._names[expression]


def _extra_properties(schema: dict[str, Any]) -> Any:
    """Return the schema of properties that are not declared."""
    return schema.get("additionalProperties", schema.get("unevaluatedProperties", True))


def _quoted(content: str) -> str:
    """Return the expression of a JSON string with this content."""
    return sequence(['"\\""', content, '"\\""'])
