"""Additions to FastAPI's `/openapi.json`: errors, streams, keys, and the models and prompts of the served releases."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI
from pydantic import BaseModel

from fledge.core.limits import Limits
from fledge.serving.endpoint import Endpoint
from fledge.serving.json_schema import NULL, REFERENCE, Schema, either, list_of, record, reference
from fledge.serving.request_models import MAX_CHARACTERS, MAX_PROMPTS, Generation
from fledge.serving.response_models import HEX
from fledge.serving.response_schemas import COMPONENTS, RESPONSES

# Python's white space; \s in a schema depends on the validator.
_SPACE = r"\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_REFERENCE = REFERENCE.format(name="{model}")  # pydantic names the placeholder differently

_MEANINGS = {
    400: "The request is invalid",
    401: "No valid key",
    403: "The Host or the Origin is not allowed",
    404: "No such model",
    408: "The request took too long to arrive",
    409: "This endpoint does not record answers, so it takes no feedback",
    413: "The body is too large",
    415: "Unsupported media type",
    429: "The queue is full; Retry-After says when to retry",
    431: "The headers are too large",
    500: "The request failed; see the log",
    503: "The engine is not ready; Retry-After says when to retry",
    504: "The answer took too long",
}
BARE = ("messages", "prompt", "input")
NO_PROMPT = "none"  # as a request's `prompt`: send the conversation unchanged
EXAMPLE = "What is machine learning?"
_ALWAYS = (400, 403, 408, 413, 431, 500)
_OF_ANSWERS = (401, 404, 415, 429, 503, 504)
_REQUEST_ID = {
    "description": "Id of the request, for the log and for feedback",
    "required": True,
    "schema": {"type": "string", "pattern": f"^{HEX}$"},
}
_FEEDBACK = {"operationId": "feedback", "requestBody": {"request_id": "$response.header.x-request-id"}}
_RETRY_AFTER = {"description": "Seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}
_SESSION = {
    "name": "x-session-id",
    "in": "header",
    "description": "Session of the request; without `user`, a session stays with one arm of an experiment",
    "schema": {"type": "string"},
}
_ABOUT_ANSWERS = {
    "x-fledge-release": "Release that answered, as NAME/VERSION",
    "x-fledge-arm": "Alias of the release that answered",
    "x-fledge-prompt": "Prompt that was filled in, as NAME/VERSION",
    "x-fledge-warning": "Ignored parameters",
    "x-fledge-turns-left-out": "Number of the oldest turns that did not fit into the context window",
}


def responses(*codes: int, answers: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route; `answers` adds those of a generating route."""
    statuses = sorted({*codes, *_ALWAYS, *(_OF_ANSWERS if answers else ())})
    return {code: {"description": _MEANINGS[code]} for code in statuses}


class Bodies(NamedTuple):
    """The request bodies whose schemas depend on the served releases."""

    chat: type[BaseModel]
    completion: type[BaseModel]
    bare: type[BaseModel]


class Offer(NamedTuple):
    """Models, prompts and limits that requests can currently use."""

    models: tuple[str, ...]
    prompt: str
    prompts: tuple[str, ...]
    variables: tuple[str, ...]
    limits: Limits

    @classmethod
    def of(cls, endpoint: Endpoint) -> "Offer":
        """Return an endpoint's offer. `prompt` and `variables` are those of the default release."""
        first = endpoint.served[endpoint.routes.routes[0].arms[0].release].prompt
        prompts = {label for served in endpoint.served.values() for label in (served.prompt.name, served.prompt.label)}
        models = tuple(endpoint.routes.names(versions=True))
        return cls(models, first.label, tuple(sorted(prompts)), first.variables, endpoint.limits)


def chat_body(model: type[BaseModel], offer: Offer) -> Schema:
    """Return the schema of a chat completion's body, with the served models and prompts.

    JSON Schema cannot express that a conversation without a user turn needs no variables.
    """
    schema = _request_schema(model, offer)
    labels, names = list(offer.prompts), offer.variables
    choice: Schema = {
        "type": "object",
        "required": ["id"],
        "properties": {
            "id": {"enum": labels},
            "variables": {"type": "object", "additionalProperties": _text(), "maxProperties": 100},
        },
    }
    if len(names) > 1:  # the last user message fills one of them
        choice["required"].append("variables")
        choice["properties"]["variables"]["anyOf"] = [
            {"required": [name for name in names if name != left_out]} for left_out in names
        ]
    without: Schema = {"const": NO_PROMPT}
    by_name = [{"enum": labels}, NULL] if len(names) == 1 else []
    schema["properties"]["prompt"] = {
        "description": schema["properties"]["prompt"]["description"],
        **either(choice, without, *by_name),
    }
    example: Schema = {"messages": [{"role": "user", "content": EXAMPLE}]}
    if len(names) > 1:
        schema.setdefault("required", []).append("prompt")
        example["prompt"] = {"id": offer.prompt, "variables": dict.fromkeys(names, EXAMPLE)}
    schema["example"] = example
    return schema


def completion_body(model: type[BaseModel], offer: Offer) -> Schema:
    """Return the schema of a text completion's body, with `echo` for texts only."""
    schema = _request_schema(model, offer)
    text, texts, ids, lists = schema["properties"]["prompt"]["anyOf"]
    no_echo = {"prompt": either(ids, lists), "echo": {"enum": [False, None]}}
    schema["anyOf"] = [{"properties": {"prompt": either(text, texts)}}, {"properties": no_echo}]
    some = either({"type": "integer", "minimum": 1}, {"const": -1}, NULL)
    echoes = {"required": ["echo"], "properties": {"echo": {"const": True}}}
    schema["allOf"] = [either({"properties": {"max_tokens": some}}, echoes)]
    return schema


def invocations_body(bare: type[BaseModel], offer: Offer) -> Schema:
    """Return the request body of `/invocations` in all its forms, with the columns of the release's prompt."""
    names = offer.variables
    row = [EXAMPLE for _ in names]
    split = {"dataframe_split": {"columns": list(names), "data": [row]}}
    lines = f"{','.join(names)}\n{','.join(row)}\n"
    return {
        "required": True,
        "description": "Further columns of a table are ignored.",
        "content": {
            "application/json": {"schema": either(_table_schema(offer), _bare_schema(bare, offer)), "example": split},
            "text/csv": {"schema": {"type": "string", "pattern": _csv_pattern(names)}, "example": lines},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    }


def _table_schema(offer: Offer) -> Schema:
    """Return the schema of a table in exactly one form.

    JSON Schema cannot express that lists have the same length, or that rows have a value for each further column.
    """
    names, most = offer.variables, offer.limits.max_rows
    text = either(_text(blank=False), {"type": ["number", "boolean"]})
    row = record(**dict.fromkeys(names, text))
    rows = [row]
    if "messages" not in names:
        row["properties"]["messages"] = NULL
        if len(names) == 1:
            rows.append(record(messages=_messages()))
    alone = [text] if len(names) == 1 else []
    values = {"type": "array", "prefixItems": [text for _ in names], "minItems": len(names), "maxItems": len(names)}
    lists = record(**dict.fromkeys(names, list_of(text, maxItems=most)))
    items = list_of(either(*rows, *alone), maxItems=most)
    forms = {
        "dataframe_split": record(columns={"const": list(names)}, data=list_of(values, maxItems=most)),
        "dataframe_records": list_of(either(*rows), maxItems=most),
        "instances": items,
        "inputs": either(items, {**lists, "additionalProperties": False}, *alone),
    }
    return {
        "title": "Table",
        "type": "object",
        "properties": {**forms, "params": either(reference("Generation"), NULL)},
        "oneOf": [{"required": [form]} for form in forms],
        "propertyNames": {"not": {"enum": list(BARE)}},
    }


def _bare_schema(model: type[BaseModel], offer: Offer) -> Schema:
    """Return the schema of a body with settings and exactly one of messages, prompt and input."""
    schema = _request_schema(model, offer)
    text = _text(blank=False)
    forms = {
        "messages": _messages(),
        "prompt": either(*schema["properties"]["prompt"]["anyOf"][:2]),
        "input": either(text, list_of(text, minItems=1, maxItems=offer.limits.max_rows)),
    }
    if len(offer.variables) > 1:  # neither a text nor a conversation fills them
        del forms["input"], forms["messages"]
    schema["anyOf"] = [
        {"title": form, "required": [form], "properties": {**dict.fromkeys(forms, NULL), form: forms[form]}}
        for form in forms
    ]
    for form in BARE:
        schema["properties"][form] = either(forms[form], NULL) if form in forms else NULL
    return schema


def _csv_pattern(names: Sequence[str]) -> str:
    """Return a pattern of lines without quotes. Quoted fields are valid too, but no pattern can count them."""
    plain = r'[^",\x00-\x1f]*'
    field = rf'{plain}[^",\x00-\x1f{_SPACE}]{plain}'
    row = ",".join(field for _ in names)
    return rf"^{','.join(names)}(\r?\n{row})*\n?$"


def _messages() -> Schema:
    """Return the schema of a conversation without tools."""
    roles = {"enum": ["system", "developer", "user", "assistant"]}
    no_tools: Schema = {"properties": {"role": roles, "tool_calls": {"type": ["array", "null"], "maxItems": 0}}}
    return list_of({"allOf": [reference("ChatMessage"), no_tools]}, minItems=1, maxItems=1000)


def _text(*, blank: bool = True) -> Schema:
    text = {"type": "string", "maxLength": MAX_CHARACTERS}
    return text if blank else {**text, "pattern": f"[^{_SPACE}]"}


def _request_schema(model: type[BaseModel], offer: Offer) -> Schema:
    """Return the schema of a request with the limits and model names of the endpoint."""
    schema = model.model_json_schema(ref_template=_REFERENCE)
    schema.pop("$defs", None)
    bounds = {
        "n": offer.limits.max_n,
        "max_tokens": offer.limits.max_new_tokens,
        "max_completion_tokens": offer.limits.max_new_tokens,
    }
    for name, most in bounds.items():
        for branch in schema["properties"].get(name, {}).get("anyOf", ()):
            if "maximum" in branch:
                branch["maximum"] = most
    for branch in schema["properties"].get("prompt", {}).get("anyOf", ()):
        if branch.get("maxItems") == MAX_PROMPTS:
            branch["maxItems"] = offer.limits.max_rows
    if "model" in schema["properties"]:
        schema["properties"]["model"]["enum"] = ["", *offer.models]
    return schema


def describe(app: FastAPI, endpoint: Endpoint, needs_key: Callable[[str], bool], bodies: Bodies) -> None:
    """Make `/openapi.json` describe the releases served at the time. `needs_key` returns whether a path needs a key."""
    original = app.openapi
    cache: dict[Offer, dict[str, Any]] = {}

    def openapi() -> dict[str, Any]:
        offer = Offer.of(endpoint)
        if offer not in cache:
            cache.clear()
            app.openapi_schema = None
            cache[offer] = _complete(original(), offer, needs_key, bodies)
        return cache[offer]

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(schema: dict[str, Any], offer: Offer, needs_key: Callable[[str], bool], bodies: Bodies) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in bodies:
        schemas.update(model.model_json_schema(ref_template=_REFERENCE).get("$defs", {}))
    schemas |= {
        **COMPONENTS,
        "Generation": _request_schema(Generation, offer),
        bodies.chat.__name__: chat_body(bodies.chat, offer),
        bodies.completion.__name__: completion_body(bodies.completion, offer),
    }
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["paths"]["/invocations"]["post"]["requestBody"] = invocations_body(bodies.bare, offer)
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            _complete_operation(path, operation)
            if needs_key(path):
                operation["security"] = [{"key": []}]
    return schema


def _complete_operation(path: str, operation: dict[str, Any]) -> None:
    found = operation["responses"]
    found.pop("422", None)
    error = reference("ScoringError" if path == "/invocations" else "Error")
    for code, response in found.items():
        response["headers"] = {"x-request-id": _REQUEST_ID}
        if code == "200" or (path, code) == ("/ready", "503"):
            if path in RESPONSES:
                response["content"] = _content(RESPONSES[path])
            continue
        response["content"] = _content({"application/json": error})
        if code in ("429", "503"):
            response["headers"]["Retry-After"] = _RETRY_AFTER
    if "429" in found:  # a generating route
        operation.setdefault("parameters", []).append(_SESSION)
        found["200"]["headers"] |= {
            name: {"description": text, "schema": {"type": "string"}} for name, text in _ABOUT_ANSWERS.items()
        }
        found["200"]["links"] = {"feedback": _FEEDBACK}


def _content(schemas: dict[str, Schema]) -> dict[str, Any]:
    return {kind: {"schema": schema} for kind, schema in schemas.items()}
