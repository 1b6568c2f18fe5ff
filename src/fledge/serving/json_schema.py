"""Parts of JSON Schemas."""

from typing import Any

Schema = dict[str, Any]

NULL: Schema = {"type": "null"}
REFERENCE = "#/components/schemas/{name}"


def reference(name: str) -> Schema:
    return {"$ref": REFERENCE.format(name=name)}


def list_of(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def record(**properties: Schema) -> Schema:
    """Return the schema of an object in which all these properties are required."""
    return {"type": "object", "required": list(properties), "properties": properties}
