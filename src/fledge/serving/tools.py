"""Tools in a chat request: how the model is told of them, the grammar of a call, and the call in the response.

A call is one JSON object with `name` and `arguments`. It is enforced by a grammar, so it needs no model that was
trained for tools.
"""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fledge.engines.grammars.json_schema import json_schema_grammar
from fledge.serving.conversations import Turns
from fledge.serving.structured_outputs import Schema, named_errors
from fledge.serving.unsupported import UnsupportedError

MAX_TOOLS = 128
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
INSTRUCTION = 'Answer only with a call of one function, as JSON: {"name": ..., "arguments": {...}}'

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Function(BaseModel):
    """A function that the model may call, with the JSON schema of its arguments."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """The name of a function."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: FunctionName


class NamedTool(BaseModel):
    """The tool that must be called."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["function"]
    function: NamedFunction


Tools = Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool


def callable_functions(tools: Sequence[Tool] | None, choice: ToolChoice | None) -> list[Function]:
    """Return the functions of which one must be called, none if tools are absent or not wanted.

    Raises `UnsupportedError` if the model may choose between a text and a call, and for a function that is not listed.
    """
    functions = [tool.function for tool in tools or ()]
    if isinstance(choice, NamedTool):
        found = [function for function in functions if function.name == choice.function.name]
        if not found:
            raise UnsupportedError("tool_choice", f"names {choice.function.name!r}, which is not among the tools")
        return found[:1]
    if not functions and choice == "required":
        raise UnsupportedError("tool_choice", "is required, and there are no tools")
    if not functions or choice == "none":
        return []
    if choice != "required":
        reason = '"auto" is not supported: set it to "required", or to one of the tools'
        raise UnsupportedError("tool_choice", reason)
    return functions


def tools_grammar(functions: Sequence[Function]) -> str:
    """Return the grammar of a call of one of the functions. Raises `StructureError`."""
    return _calls_grammar(msgspec.json.encode([(item.name, item.parameters or NO_PARAMETERS) for item in functions]))


@functools.lru_cache(maxsize=256)
def _calls_grammar(functions: bytes) -> str:
    options, definitions = [], {}
    for number, (name, parameters) in enumerate(msgspec.json.decode(functions)):
        reference = f"#/$defs/function{number}"
        definitions[f"function{number}"] = _rebase(parameters, reference)
        properties = {"name": {"const": name}, "arguments": {"$ref": reference, "type": "object"}}
        options.append({"type": "object", "properties": properties, "required": ["name", "arguments"]})
    with named_errors("tools"):
        return json_schema_grammar({"anyOf": options, "$defs": definitions})


def _rebase(schema: Any, base: str) -> Any:
    """Return a schema whose references start at `base` instead of its own root."""
    if isinstance(schema, list):
        return [_rebase(item, base) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    moved = {name: _rebase(value, base) for name, value in schema.items()}
    return {**moved, "$ref": base + reference[1:]} if isinstance(reference, str) and reference[:1] == "#" else moved


def with_tools(turns: Turns, functions: Sequence[Function]) -> Turns:
    """Return the conversation with the functions in its system text."""
    known = [item.model_dump(exclude_none=True, exclude={"strict"}) for item in functions]
    lines = [json.dumps(item, ensure_ascii=False) for item in known]
    text = "\n".join(["You can call these functions:", *lines, INSTRUCTION])
    if turns and turns[0][0] == "system":
        return [("system", f"{turns[0][1]}\n\n{text}"), *turns[1:]]
    return [("system", text), *turns]


_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([A-Za-z0-9_.-]+)"\s*,\s*"arguments"\s*:\s*(?=\{)')
_CLOSING = re.compile(r"\s*\}?\s*$")


@dataclass
class CallParser:
    """Reads a call as it is generated."""

    _text: str = ""
    _start: int = 0  # of the arguments, 0 while they have not begun
    _sent: int = 0
    name: str = ""

    def feed(self, text: str, *, ends: bool = False, complete: bool = True) -> tuple[str, str]:
        """Return the name, once it is known, and the next part of the arguments as text.

        The bracket that closes the call is held back; with `ends` it is dropped, or kept if the call is not `complete`.
        """
        self._text += text
        found = ""
        if not self._start:
            head = _HEAD.match(self._text)
            if head is None:
                return "", ""
            self.name = found = head[1]
            self._start = self._sent = head.end()
        arguments = self._text[self._start :]
        if not (ends and not complete):
            closing = _CLOSING.search(arguments)
            arguments = arguments[: closing.start()] if closing else arguments
        fresh = arguments[self._sent - self._start :]
        self._sent += len(fresh)
        return found, fresh
