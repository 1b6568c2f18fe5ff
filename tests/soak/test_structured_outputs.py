"""Structured outputs on a real model: random schemas are met, hostile ones are refused and harm nobody."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from fledge.core.errors import InputError, StructureError
from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines import selection
from fledge.engines.engine import Engine
from fledge.engines.grammars.json_schema import json_schema_grammar
from fledge.engines.grammars.texts import own_grammar, regex_grammar
from fledge.engines.settings import EngineSettings
from fledge.models.snapshot import Snapshot

pytestmark = pytest.mark.soak

NAMES = ("name", "größe", "日付", 'a "b"', "x_1", "note", "tags", "id")
QUESTION = [Message("user", "Describe something in JSON.")]


@pytest.fixture(scope="module")
def engine(smollm2: Snapshot) -> Iterator[Engine]:
    with closing(selection.start(EngineSettings(mode="fast", device="cpu"), smollm2)) as started:
        yield started


def _random_schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    simple: list[dict[str, Any]] = [
        {"type": "string", "maxLength": draw.randint(1, 20)},
        {"type": "integer", "minimum": draw.randint(-(10**12), 0), "maximum": draw.randint(0, 10**12)},
        {"type": "number", "minimum": -1.5, "exclusiveMaximum": draw.choice([0.25, 3, 1e6])},
        {"type": ["boolean", "null"]},
        {"enum": draw.sample(["red", "grün", "蓝", 7, 1.5, None, True, 10**20], 3)},
        {"type": "string", "pattern": draw.choice(["^[A-Z]{2}[0-9]{1,4}$", "^(foo|bar)+$", "^\\d{2}:\\d{2}$"])},
        {"type": "string", "format": draw.choice(["date", "uuid", "email", "date-time", "ipv4"])},
    ]
    if depth >= 3 or draw.random() < 0.3:
        return draw.choice(simple)
    inner = [_random_schema(draw, depth + 1) for _ in range(draw.randint(1, 4))]
    names = draw.sample(NAMES, len(inner))
    nested: list[dict[str, Any]] = [
        {
            "type": "object",
            "properties": dict(zip(names, inner, strict=True)),
            "required": draw.sample(names, draw.randint(0, len(names))),
            "additionalProperties": False,
        },
        {"type": "array", "items": inner[0], "minItems": draw.randint(0, 2), "maxItems": draw.randint(2, 3)},
        {"anyOf": inner},
        {"type": "array", "prefixItems": inner, "items": False, "minItems": len(inner)},
        {
            "type": "object",
            "properties": {"value": inner[0], "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]}},
            "required": ["value", "next"],
            "additionalProperties": False,
        },
    ]
    return draw.choice(nested)


def test_two_hundred_schemas_are_met(engine: Engine) -> None:
    draw = random.Random(0)
    schemas = [{**_random_schema(draw), "$defs": {"leaf": {"const": "leaf"}}} for _ in range(200)]
    params = [GenerationParams(max_tokens=400, grammar=json_schema_grammar(schema), seed=5) for schema in schemas]
    began = time.monotonic()
    answers = [stream.result() for stream in [engine.submit(QUESTION, item) for item in params]]
    seconds = time.monotonic() - began
    whole = [(schema, item) for schema, item in zip(schemas, answers, strict=True) if item.finish_reason == "stop"]
    for schema, item in whole:
        Draft202012Validator(schema).validate(json.loads(item.text))
    tokens = sum(item.completion_tokens for item in answers)
    free = GenerationParams(max_tokens=400)
    began = time.monotonic()
    others = [stream.result() for stream in [engine.submit(QUESTION, free) for _ in range(64)]]
    pace = sum(item.completion_tokens for item in others) / (time.monotonic() - began)
    print(f"\n{len(whole)} of 200 answers are whole and valid, the others cut at 400 tokens; {tokens / seconds:.0f} "
          f"tokens/s, {pace:.0f} without a structure")  # fmt: skip
    assert len(whole) >= 180


def _hostile(number: int) -> str:
    """Return a grammar that is broken, or takes long, or raise `StructureError` at once."""
    size = number + 2
    kinds = (
        lambda: json_schema_grammar({"$ref": f"#/$defs/{'a' * size}"}),
        lambda: json_schema_grammar({"type": "string", "pattern": "(" * size}),
        lambda: regex_grammar("(a{1,99}){1,99}" * size),
        lambda: json_schema_grammar({"anyOf": [{"$ref": "#"}] * size}),
        lambda: own_grammar("root ::= " + "(" * size),
        lambda: own_grammar(f"root ::= missing{number}"),
        lambda: own_grammar("root ::= " + "(" * 6 + "[a-z]" + "{1,60})" * 6 + f' "{number}"'),
        lambda: json_schema_grammar({"allOf": [{"type": "string"}, {"type": "integer"}]}),
        lambda: own_grammar('root ::= "' + "\\" * (2 * size + 1)),
        lambda: json_schema_grammar({"not": {}}),
    )
    return kinds[number % len(kinds)]()


def test_hundred_hostile_structures_are_refused_and_harm_nobody(engine: Engine) -> None:
    slowest, refused = 0.0, 0
    for number in range(100):
        began = time.monotonic()
        try:
            engine.submit(QUESTION, GenerationParams(max_tokens=4, grammar=_hostile(number))).result()
        except (StructureError, InputError):
            refused += 1
        slowest = max(slowest, time.monotonic() - began)
    plain = GenerationParams(max_tokens=8)
    answers = {engine.submit(QUESTION, plain).result().text for _ in range(100)}
    print(f"\n{refused} of 100 refused, the slowest in {slowest:.1f} s; the next 100 answers are alike: {len(answers)}")
    assert refused >= 90
    assert slowest < 10
    assert len(answers) == 1
