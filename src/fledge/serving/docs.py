"""What `/openapi.json` says beyond the types of routes: errors, streams, and the forms of a table."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

_OPENAI = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MLFLOW = {
    "type": "object",
    "required": ["error_code", "message"],
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_PREDICTIONS = {
    "anyOf": [{"type": "object", "required": ["predictions"], "properties": {"predictions": _TEXTS}}, _TEXTS]
}
_MEANINGS = {
    400: "The request is wrong",
    401: "No valid key",
    403: "The Host or the Origin is not served",
    404: "No such model",
    405: "No such method",
    408: "The body took too long",
    413: "The body is too large",
    415: "Not a form of table that is taken",
    429: "Too much is waiting; Retry-After says when to come back",
    500: "The request failed; the log says why",
    503: "The engine is not ready; Retry-After says when to come back",
    504: "The answer took too long",
}
_USUAL = (400, 401, 403, 404, 408, 413, 429, 500, 503, 504)


def responses(*codes: int, stream: bool = False, predictions: bool = False) -> dict[int | str, dict[str, Any]]:
    """The answers of a route beside its good one; of a route that generates, those that every one of them has."""
    shape = _MLFLOW if predictions else _OPENAI
    wanted = {*codes, *(_USUAL if stream or predictions else (408, 413, 500))}
    found: dict[int | str, dict[str, Any]] = {
        code: {"description": _MEANINGS[code], "content": {"application/json": {"schema": shape}}}
        for code in sorted(wanted)
    }
    if stream:
        answer = {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        }
        found[200] = {"description": "The answer, with `stream` as server-sent events", "content": answer}
    if predictions:
        found[200] = {"description": "The answers", "content": {"application/json": {"schema": _PREDICTIONS}}}
    return found


def invocations_body(table: type[BaseModel], bare: type[BaseModel]) -> dict[str, Any]:
    """The request body of `/invocations`, with every form that it may have."""
    tables = table.model_json_schema(ref_template="#/components/schemas/{model}")
    forms = [name for name in table.model_fields if name != "params"]
    tables.pop("$defs", None)
    tables["oneOf"] = [{"required": [name]} for name in forms]
    for name in forms:
        tables["properties"][name].pop("default", None)
    bares = bare.model_json_schema(ref_template="#/components/schemas/{model}")
    bares.pop("$defs", None)
    bares["oneOf"] = [{"required": [name]} for name in ("messages", "prompt", "input")]
    example = {"dataframe_split": {"columns": ["question"], "data": [["What is machine learning?"]]}}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": {"anyOf": [tables, bares]}, "example": example},
            "text/csv": {"schema": {"type": "string"}, "example": "question\nWhat is machine learning?\n"},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    }


def describe(app: FastAPI, models: list[type[BaseModel]]) -> None:
    """Have the application's `/openapi.json` say what is so: errors of validation are 400."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = original()
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        for model in models:
            found = model.model_json_schema(ref_template="#/components/schemas/{model}")
            components.update(found.pop("$defs", {}))
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = schema
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
