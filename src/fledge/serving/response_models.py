"""JSON Schemas of what the endpoint answers, by name, for `/openapi.json`."""

from typing import Any

Schema = dict[str, Any]

NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
HEX = "[0-9a-f]{32}"
REQUEST_ID = f"(chatcmpl-|cmpl-)?{HEX}"


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def record(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _answer(prefix: str, kind: str, choice: Schema, **more: Schema) -> Schema:
    return record(
        id={"type": "string", "pattern": f"^{prefix}-{HEX}$"},
        object={"const": kind},
        created=COUNT,
        model=TEXT,
        choices=list_of(choice),
        **more,
    )


def _choice(finish_reason: Schema, logprobs: str, **more: Schema) -> Schema:
    return record(index=COUNT, finish_reason=finish_reason, logprobs=either(reference(logprobs), NULL), **more)


def _events(payload: str) -> Schema:
    """An event: JSON, or the last one."""
    found = either(reference(payload), reference("Error"))
    data = either({"const": "[DONE]"}, {"contentMediaType": "application/json", "contentSchema": found})
    return record(data=data)


_END: Schema = {"enum": ["stop", "length"]}
_MAYBE_END: Schema = {"enum": ["stop", "length", None]}
_token = {"token": TEXT, "logprob": {"type": "number"}, "bytes": either(list_of({"type": "integer"}), NULL)}
_message = record(role={"const": "assistant"}, content=TEXT, refusal=NULL)
_delta: Schema = {"type": "object", "properties": {"role": {"const": "assistant"}, "content": TEXT}}
_may_have_usage = {"properties": {"usage": either(reference("Usage"), NULL)}}

COMPONENTS: dict[str, Schema] = {
    "Error": record(
        error=record(message=TEXT, type=TEXT, param=either(TEXT, NULL), code=either(TEXT, NULL)),
    ),
    "ScoringError": record(error_code=TEXT, message=TEXT),
    "Usage": record(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
    "ChatLogprobs": record(content=list_of(record(**_token, top_logprobs=list_of(record(**_token)))), refusal=NULL),
    "Logprobs": record(
        tokens=list_of(TEXT),
        token_logprobs=list_of({"type": "number"}),
        top_logprobs=list_of({"type": "object", "additionalProperties": {"type": "number"}}),
        text_offset=list_of(COUNT),
    ),
    "ChatCompletion": _answer(
        "chatcmpl",
        "chat.completion",
        _choice(_END, "ChatLogprobs", message=_message),
        usage=reference("Usage"),
    ),
    "ChatCompletionChunk": {
        "allOf": [
            _answer("chatcmpl", "chat.completion.chunk", _choice(_MAYBE_END, "ChatLogprobs", delta=_delta)),
            _may_have_usage,
        ]
    },
    "Completion": _answer("cmpl", "text_completion", _choice(_END, "Logprobs", text=TEXT), usage=reference("Usage")),
    "CompletionChunk": {
        "allOf": [
            _answer("cmpl", "text_completion", _choice(_MAYBE_END, "Logprobs", text=TEXT)),
            _may_have_usage,
        ]
    },
    "Model": record(id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT),
    "Models": record(object={"const": "list"}, data=list_of(reference("Model"))),
    "Predictions": either(record(predictions=list_of(TEXT)), list_of(TEXT)),
    "Ready": record(
        ready={"type": "boolean"},
        draining={"type": "boolean"},
        releases=list_of(record(name=TEXT, version=COUNT, ready={"type": "boolean"})),
    ),
    "FeedbackTaken": record(
        feedback_id={"type": "string", "pattern": f"^{HEX}$"}, request_id={"type": "string", "pattern": f"^{HEX}$"}
    ),
}

_JSON, _EVENTS = "application/json", "text/event-stream"

ANSWERS: dict[str, dict[str, Schema]] = {
    "/v1/models": {_JSON: reference("Models")},
    "/v1/models/{model}": {_JSON: reference("Model")},
    "/v1/chat/completions": {_JSON: reference("ChatCompletion"), _EVENTS: _events("ChatCompletionChunk")},
    "/v1/completions": {_JSON: reference("Completion"), _EVENTS: _events("CompletionChunk")},
    "/invocations": {_JSON: reference("Predictions")},
    "/ready": {_JSON: reference("Ready")},
    "/feedback": {_JSON: reference("FeedbackTaken")},
}
"""What a good answer is on each path, by media type; of a stream, each of its events."""
