"""Structured outputs in a request: OpenAI's `response_format` and vLLM's `guided_...` as the grammar of the answer."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fledge.core.errors import StructureError
from fledge.engines.grammars.json_schema import json_schema_grammar
from fledge.engines.grammars.texts import MAX_CHOICES, choice_grammar, own_grammar, regex_grammar

MAX_SCHEMA_CHARACTERS = 50_000
JSON_OBJECT = {"type": "object"}
ANY_JSON = True

Schema = dict[str, Any] | bool
Pattern = Annotated[str, StringConstraints(max_length=2_000)]
OwnGrammar = Annotated[str, StringConstraints(max_length=100_000)]
Choices = Annotated[list[Annotated[str, StringConstraints(max_length=10_000)]], Field(max_length=MAX_CHOICES)]


class JsonSchemaFormat(BaseModel):
    """A JSON schema with a name; it is always enforced, with or without `strict`."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str = Field("", max_length=200)
    description: str | None = None
    json_schema: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The format of an answer."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(BaseModel):
    """vLLM's form: one of JSON schema, regular expression, choices and grammar."""

    model_config = ConfigDict(strict=True, extra="allow")

    json_schema: Schema | str | None = Field(None, alias="json")
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: OwnGrammar | None = None
    json_object: bool | None = None


class Structured(BaseModel):
    """Fields of a request that say what an answer must look like; at most one may be set."""

    response_format: ResponseFormat | None = Field(None, description="JSON, or JSON that is valid for a schema")
    guided_json: Schema | str | None = Field(None, description="JSON schema of the answer, as an object or as text")
    guided_regex: Pattern | None = Field(None, description="regular expression that matches the whole answer")
    guided_choice: Choices | None = Field(None, description="texts of which the answer is one")
    guided_grammar: OwnGrammar | None = Field(None, description="grammar of the answer, in xgrammar's EBNF")
    structured_outputs: StructuredOutputs | None = Field(None, description="the same in vLLM's newer form")

    def grammar(self) -> str:
        """Return the grammar of the answer, empty for none.

        Raises `StructureError` with the parameter for two structures, and for one that cannot be enforced.
        """
        wanted = self._wanted()
        if not wanted:
            return ""
        if len(wanted) > 1:
            (first, *_), (second, *_) = wanted[:2]
            raise StructureError(f"{first} and {second} cannot be combined", param=second)
        ((param, kind, value),) = wanted
        with named_errors(param):
            return _compile(kind, msgspec.json.encode(value))

    def structure_param(self) -> str:
        """Return the parameter that says what the answer must look like, empty for none."""
        return next((param for param, *_ in self._wanted()), "")

    def _wanted(self) -> list[tuple[str, str, Any]]:
        """Return parameter, kind and value of each structure."""
        return [item for item in (*self._of_format(), *self._guided()) if item[2] or item[2] is False]

    def _of_format(self) -> list[tuple[str, str, Any]]:
        found = self.response_format
        if found is None or found.type == "text":
            return []
        if found.type == "json_object":
            return [("response_format", "json", JSON_OBJECT)]
        if found.json_schema is None:
            raise StructureError("response_format: json_schema is missing", param="response_format")
        return [("response_format", "json", found.json_schema.json_schema or ANY_JSON)]

    def _guided(self) -> list[tuple[str, str, Any]]:
        items = [
            ("guided_json", "json", self.guided_json),
            ("guided_regex", "regex", self.guided_regex),
            ("guided_choice", "choice", self.guided_choice),
            ("guided_grammar", "grammar", self.guided_grammar),
        ]
        if self.structured_outputs is not None:
            other = self.structured_outputs
            content = JSON_OBJECT if other.json_object else other.json_schema
            found = {"json": content, "regex": other.regex, "choice": other.choice, "grammar": other.grammar}
            items += [("structured_outputs", kind, value) for kind, value in found.items()]
        return items


@contextmanager
def named_errors(param: str) -> Iterator[None]:
    """Name the parameter in a `StructureError`."""
    try:
        yield
    except StructureError as error:
        if not param or error.param:
            raise
        raise StructureError(f"{param}: {error.message}", error.hint, param) from None


@functools.lru_cache(maxsize=256)
def _compile(kind: str, content: bytes) -> str:
    if len(content) > MAX_SCHEMA_CHARACTERS and kind == "json":
        raise StructureError(f"the schema has {len(content)} characters; at most {MAX_SCHEMA_CHARACTERS}")
    value = msgspec.json.decode(content)
    if kind == "json":
        return json_schema_grammar(_parse(value) if isinstance(value, str) else value)
    makers: dict[str, Any] = {"regex": regex_grammar, "choice": choice_grammar, "grammar": own_grammar}
    return str(makers[kind](value))


def _parse(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StructureError(f"the schema is not JSON: {error}") from None
