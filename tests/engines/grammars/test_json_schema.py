"""JSON drawn from the grammar of a schema is valid for it, by the judgement of the library `jsonschema_rs`."""

import contextlib
import json
from datetime import date, datetime, time, timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from pydantic import AnyUrl, BaseModel, Field, TypeAdapter

from fledge.core.errors import StructureError
from fledge.engines.grammars.formats import FORMATS
from fledge.engines.grammars.json_schema import MAX_DEPTH, json_schema_grammar
from fledge.engines.grammars.keywords import ENFORCED
from tests.engines.grammars.sampler import GrammarSampler

DRAWS = 6
TEXT = {"type": "string"}
NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["value", "next"],
    "additionalProperties": False,
}
MARKED = [
    {"type": "object", "properties": {"kind": {"const": kind}, kind: TEXT}, "required": ["kind", kind]}
    for kind in ("cat", "dog")
]


def _object(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", **keywords}


SCHEMAS: dict[str, Any] = {
    "anything": {},
    "true": True,
    "any object": _object(),
    "open object": _object(additionalProperties=True),
    "any list": {"type": "array"},
    "one property at most": _object(additionalProperties=TEXT, maxProperties=1),
    "one property at least": _object(additionalProperties=TEXT, minProperties=1),
    "names by pattern": _object(patternProperties={"^a[0-9]$": {"type": "integer"}}, additionalProperties=False),
    "property names": _object(propertyNames={"pattern": "^[a-c]{2}$"}, additionalProperties=TEXT),
    "required and not declared": _object(required=["x"], properties={"y": TEXT}),
    "only required": _object(required=["x"]),
    "optional properties": _object(
        properties={name: {"type": "integer"} for name in "abcdef"}, required=["c"], additionalProperties=False
    ),
    "none required": _object(properties={name: {"type": "boolean"} for name in "abc"}, additionalProperties=False),
    "two properties at least": _object(properties={"a": TEXT, "b": TEXT}, required=["a"], minProperties=2),
    "fewer properties than declared": _object(properties={"a": TEXT, "b": TEXT}, required=["a"], maxProperties=1),
    "a property that may not be": _object(properties={"a": False, "b": TEXT}, required=["b"]),
    "quotes and letters in names": _object(properties={'ключ "q" \\': TEXT}, required=['ключ "q" \\']),
    "values": {"enum": [1, "a", None, {"b": [1]}, True]},
    "one value": {"const": {"x": 1}},
    "letters in values": {"enum": ["naïve", "日本", '😀"\\']},
    "letters before digits": _object(properties={"größe": {"const": "éa1"}}, required=["größe"]),
    "values of a type": {"type": "string", "enum": ["a", 1]},
    "large values": {"enum": [1e300, -0.5, 10**25]},
    "either": {"anyOf": [TEXT, {"type": "integer"}]},
    "either, with more in common": {
        "type": "object",
        "properties": {"a": TEXT},
        "required": ["a"],
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "one of two types": {"oneOf": [TEXT, {"type": "integer"}]},
    "one of two kinds": {"oneOf": MARKED},
    "all of one": {"allOf": [_object(properties={"a": TEXT}, required=["a"])]},
    "all of two": {
        "allOf": [
            _object(properties={"a": TEXT}, required=["a"]),
            _object(properties={"b": {"type": "integer"}}, required=["b"]),
        ]
    },
    "all of two references": {
        "$defs": {"a": _object(properties={"a": TEXT}, required=["a"]), "b": _object(required=["b"])},
        "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
    },
    "all of a closed and an open one": {
        "allOf": [
            _object(properties={"a": TEXT}, required=["a"], additionalProperties=False),
            _object(properties={"a": {"minLength": 1}, "b": TEXT}),
        ]
    },
    "closed with options": _object(
        properties={"a": TEXT}, required=["a"], additionalProperties=False, anyOf=[{"properties": {"b": TEXT}}]
    ),
    "extra properties of a type": {
        "allOf": [
            _object(properties={"a": TEXT}, additionalProperties={"maxLength": 3}),
            _object(properties={"b": TEXT}, required=["b"]),
        ]
    },
    "nothing unevaluated of a type": _object(unevaluatedProperties={"type": "integer"}, minProperties=1),
    "several types": {"type": ["string", "integer", "null"], "maxLength": 3, "minimum": 5},
    "no type": {"properties": {"a": TEXT}, "required": ["a"]},
    "no type, number": {"minimum": 5},
    "no type, list": {"items": TEXT},
    "integers": {"type": "integer", "minimum": 15, "maximum": 17},
    "integers between": {"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 2},
    "integers over many digits": {"type": "integer", "minimum": 987, "maximum": 100234},
    "negative integers": {"type": "integer", "minimum": -1205, "maximum": -88},
    "integers below": {"type": "integer", "maximum": -5},
    "large integers": {"type": "integer", "minimum": 10**20},
    "numbers": {"type": "number", "minimum": 0.5, "maximum": 0.75},
    "numbers between": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "numbers from": {"type": "number", "minimum": 0},
    "numbers below": {"type": "number", "exclusiveMaximum": -2.5},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "^[a-z]{2}-[0-9]+$"},
    "pattern within": {"type": "string", "pattern": "[0-9]"},
    "pattern of a length": {"type": "string", "pattern": "^[a-z]{2,4}$", "minLength": 1, "maxLength": 4},
    "pattern with quotes": {"type": "string", "pattern": '^["\\\\]{2}\\d?$'},
    "pattern of alternatives": {"type": "string", "pattern": "^a+$|^b{2,3}$|^(c|d)$"},
    "unknown format": {"type": "string", "format": "colour"},
    "lists": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    "empty lists": {"type": "array", "maxItems": 0},
    "tuples": {"type": "array", "prefixItems": [TEXT, {"type": "integer"}], "items": False},
    "open tuples": {"type": "array", "prefixItems": [TEXT], "minItems": 3, "items": {"type": "null"}},
    "repeated items allowed": {"type": "array", "items": {"enum": [1]}, "uniqueItems": False, "maxItems": 2},
    "recursion": {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    "recursion from the root": _object(properties={"c": {"type": "array", "items": {"$ref": "#"}}}, required=["c"]),
    "reference with more": {"$defs": {"s": TEXT}, "$ref": "#/$defs/s", "maxLength": 2},
    "escaped reference": {"$defs": {"a/b~c": TEXT}, "$ref": "#/$defs/a~1b~0c"},
    "annotations": {"title": "T", "description": "d", "default": 1, "examples": [1], "$comment": "c", **TEXT},
    "nothing unevaluated": _object(properties={"a": TEXT}, unevaluatedProperties=False),
    **{f"format {name}": {"type": "string", "format": name} for name in FORMATS},
}

REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"not": TEXT}, "not cannot be enforced"),
    "if": ({"if": TEXT, "then": TEXT}, "if cannot be enforced"),
    "multipleOf": ({"type": "integer", "multipleOf": 3}, "multipleOf cannot be enforced"),
    "uniqueItems": (_object(properties={"tags": {"type": "array", "uniqueItems": True}}), "/properties/tags: unique"),
    "contains": ({"type": "array", "contains": TEXT}, "contains cannot"),
    "dependentRequired": (_object(dependentRequired={"a": ["b"]}), "dependentRequired cannot"),
    "overlapping oneOf": ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf with options that may overlap"),
    "pattern and length": ({"type": "string", "pattern": "a", "maxLength": 3}, "a length that the pattern"),
    "look-ahead": ({"type": "string", "pattern": "^(?!a)b$"}, "look-ahead"),
    "reference elsewhere": ({"$ref": "https://example.com/s.json"}, "only references within the schema"),
    "reference to nothing": ({"$ref": "#/$defs/none"}, "leads nowhere"),
    "reference to itself": ({"$ref": "#"}, "leads back to itself"),
    "references in a circle": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
                               "leads back to itself"),
    "option of itself": ({"anyOf": [{"$ref": "#"}, TEXT]}, "leads back to itself"),
    "all of itself": ({"allOf": [{"$ref": "#"}]}, "nested more than 100 deep"),
    "unknown type": ({"type": "text"}, "unknown type 'text'"),
    "false": (False, "accepts no value"),
    "a list": ([], "must be an object or a boolean"),
    "empty enum": ({"enum": []}, "enum must be a list that is not empty"),
    "empty anyOf": ({"anyOf": []}, "anyOf must be a list that is not empty"),
    "no integer": ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "no integer is at least 1.2 and at most 1.8"),
    "lengths that exclude each other": ({"type": "string", "minLength": 3, "maxLength": 2}, "maxLength is below"),
    "types that exclude each other": ({"allOf": [TEXT, {"type": "integer"}]}, "two different values of type"),
    "missing and forbidden": (_object(required=["a"], additionalProperties=False), "'a' is not allowed"),
    "required as in draft 3": ({"type": "string", "required": True}, "required must be a list, not true"),
    "properties as a list": (_object(properties=[1]), "properties must be an object"),
    "type as a number": ({"type": 5}, "type must be a text or a list"),
    "option as a number": ({"anyOf": [5]}, "must be an object or a boolean"),
    "bounds of two kinds": ({"allOf": [{"minLength": 1}, {"minLength": "2"}]}, "minLength must be a number"),
    "part of all as a list": ({"allOf": [{"properties": []}, {"required": ["a"]}]}, "properties must be an object"),
    "closed in two ways": (
        {"allOf": [_object(properties={"a": TEXT}, additionalProperties=False), _object(required=["b"])]},
        "'b' is not allowed",
    ),
    "items of one part only": (
        {"allOf": [{"items": TEXT}, {"prefixItems": [{"minLength": 2}]}]},
        "items of a part cannot be enforced",
    ),
    "bound of text": ({"type": "integer", "minimum": "1"}, "minimum must be a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_drawn_json_is_valid_for_the_schema(name: str, sampler: GrammarSampler) -> None:
    schema = SCHEMAS[name]
    grammar = json_schema_grammar(schema)
    drawn = [text for seed in range(DRAWS) if (text := sampler.draw(grammar, seed)) is not None]
    validator = Draft202012Validator(schema, validate_formats=True)
    for text in drawn:
        validator.validate(json.loads(text))
    assert drawn


@pytest.mark.parametrize("name", REFUSED)
def test_schema_that_cannot_be_enforced_is_refused_by_name(name: str) -> None:
    schema, message = REFUSED[name]
    with pytest.raises(StructureError) as refused:
        json_schema_grammar(schema)
    assert message in refused.value.message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from(["string", "object", "#", "#/anyOf/0", "^a$"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(ENFORCED)), inner, max_size=4),
    max_leaves=12,
)


@given(schema=st.dictionaries(st.sampled_from(sorted(ENFORCED)), VALUES, max_size=5))
def test_nonsense_gives_a_grammar_or_is_refused(schema: Any) -> None:
    with contextlib.suppress(StructureError):
        assert json_schema_grammar(schema).startswith("root ::= ")


def test_schema_nested_too_deep_is_refused() -> None:
    schema: dict[str, Any] = dict(TEXT)
    for _ in range(MAX_DEPTH + 1):
        schema = {"type": "array", "items": schema}
    with pytest.raises(StructureError, match="deep"):
        json_schema_grammar(schema)


def test_schema_that_repeats_its_parts_without_end_is_refused() -> None:
    """Each definition names the next one twice, with keywords of its own, so that none can be shared."""
    definitions = {
        f"d{number}": {"anyOf": [{"$ref": f"#/$defs/d{number + 1}", "maxLength": size} for size in (5, 6)]}
        for number in range(40)
    }
    with pytest.raises(StructureError, match="more than 5000 parts"):
        json_schema_grammar({"$defs": {**definitions, "d40": TEXT}, "$ref": "#/$defs/d0"})


def test_white_space_cannot_go_on_for_ever(sampler: GrammarSampler) -> None:
    grammar = json_schema_grammar(_object(properties={"a": {"type": "integer"}}, required=["a"]))
    drawn = [sampler.draw(grammar, seed) for seed in range(20)]
    assert max(len(text) - len("".join(text.split())) for text in drawn if text) <= 5 * 17


def test_pydantic_schema_gives_an_instance(sampler: GrammarSampler) -> None:
    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    class Part(BaseModel):
        name: str = Field(max_length=10)
        price: float = Field(ge=0, lt=100)

    class Order(BaseModel):
        colour: Colour
        parts: list[Part] = Field(min_length=1, max_length=2)
        note: str | None = None

    grammar = json_schema_grammar(Order.model_json_schema())
    drawn = [text for seed in range(DRAWS) if (text := sampler.draw(grammar, seed)) is not None]
    assert drawn
    assert all(1 <= len(Order.model_validate_json(text).parts) <= 2 for text in drawn)


@pytest.mark.parametrize("kind", [date, datetime, time, timedelta, UUID, IPv4Address, IPv6Address, AnyUrl])
def test_formats_are_read_by_pydantic(kind: type, sampler: GrammarSampler) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    grammar = json_schema_grammar(adapter.json_schema())
    drawn = [text for seed in range(4 * DRAWS) if (text := sampler.draw(grammar, seed)) is not None]
    assert all(isinstance(adapter.validate_json(text), kind) for text in drawn)
    assert drawn
