"""JSON Schemas of the responses, made from their structs, for `/openapi.json`."""

from typing import Any

import msgspec
from msgspec import Struct

from fledge.serving.json_schema import REFERENCE, Schema, either, record, reference
from fledge.serving.response_models import (
    ChatCompletion,
    ChatCompletionChunk,
    Error,
    FeedbackTaken,
    Model,
    Models,
    PredictionsResponse,
    Ready,
    ScoringError,
    TextCompletion,
    TextCompletionChunk,
)

_JSON, _EVENTS = "application/json", "text/event-stream"

_BODIES: dict[str, Any] = {
    "/v1/models": Models,
    "/v1/models/{model}": Model,
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": TextCompletion,
    "/invocations": PredictionsResponse | list[str],
    "/ready": Ready,
    "/feedback": FeedbackTaken,
}
_CHUNKS: dict[str, type[Struct]] = {"/v1/chat/completions": ChatCompletionChunk, "/v1/completions": TextCompletionChunk}

_bodies, COMPONENTS = msgspec.json.schema_components(
    [*_BODIES.values(), *_CHUNKS.values(), Error, ScoringError], ref_template=REFERENCE
)


def _event(chunk: type[Struct]) -> Schema:
    """Return the schema of a stream's event: JSON, or the text that ends the stream."""
    payload = either(reference(chunk.__name__), reference(Error.__name__))
    return record(data=either({"const": "[DONE]"}, {"contentMediaType": _JSON, "contentSchema": payload}))


RESPONSES = {path: {_JSON: body} for path, body in zip(_BODIES, _bodies, strict=False)}
"""The schema of a successful response on each path, by media type; for a stream, of each event."""
for _path, _chunk in _CHUNKS.items():
    RESPONSES[_path][_EVENTS] = _event(_chunk)
