"""Chat and text completions on the wire, checked against their schemas."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import jsonschema_rs  # installed with schemathesis
import pytest

from fledge.core.messages import Piece, TokenScore
from fledge.serving.completions import ChatBuilder, CompletionBuilder
from fledge.serving.response_models import encode
from fledge.serving.response_schemas import COMPONENTS
from fledge.serving.trace import RequestTrace, Result

PIECES = [
    Piece("p", text="So", token_ids=[1], prompt_tokens=4, logprobs=[TokenScore(b"So", -0.5, ((b"So", -0.5),))]),
    Piece("p", text="", token_ids=[2], prompt_tokens=4),
    Piece(
        "p",
        text=" \ufffd",
        token_ids=[3],
        prompt_tokens=4,
        finish_reason="stop",
        logprobs=[TokenScore(b" \xf0\x9f", -1.5, ((b" \xf0\x9f", -1.5),))],
    ),
]


def _chat(trace: RequestTrace, *, with_usage: bool) -> ChatBuilder:
    return ChatBuilder(trace, 1, with_usage=with_usage, with_top=True)


def _completion(trace: RequestTrace, *, with_usage: bool) -> CompletionBuilder:
    return CompletionBuilder(trace, 1, with_usage=with_usage, echoes=["Why? "])


def _trace() -> RequestTrace:
    return RequestTrace("chat", release="mine", results=[Result("Why?")])


def _chunks(builder: ChatBuilder | CompletionBuilder) -> list[dict[str, Any]]:
    async def pieces() -> AsyncGenerator[tuple[int, Piece]]:
        for piece in PIECES:
            builder.trace.results[0].add(piece)
            yield 0, piece

    async def run() -> list[dict[str, Any]]:
        return [json.loads(encode(chunk)) async for chunk in builder.chunks(pieces())]

    return asyncio.run(run())


def _validator(name: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": {"schemas": COMPONENTS}})


def _without_one(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return copies of a body, each without one of its fields."""
    return [{name: value for name, value in body.items() if name != left_out} for left_out in body]


@pytest.mark.parametrize(("make", "name"), [(_chat, "ChatCompletion"), (_completion, "TextCompletion")])
def test_schemas_accept_only_complete_responses(make: Any, name: str) -> None:
    builder = make(_trace(), with_usage=True)
    chunks = _chunks(builder)
    whole = json.loads(encode(builder.build()))
    schema = _validator(name)
    schema.validate(whole)
    (choice,) = whole["choices"]
    wrong = [
        *_without_one(whole),
        *({**whole, "usage": usage} for usage in _without_one(whole["usage"])),
        *({**whole, "choices": [part]} for part in _without_one(choice)),
        *({**whole, "choices": [{**choice, "logprobs": part}]} for part in _without_one(choice["logprobs"])),
        *(
            {**whole, **other}
            for other in ({"id": f"x-{builder.trace.request_id}"}, {"object": "list"}, {"created": -1})
        ),
        {**whole, "choices": [{**choice, "finish_reason": "cancelled"}]},
    ]
    assert not [body for body in wrong if schema.is_valid(body)]
    schema = _validator(f"{name}Chunk")
    for chunk in chunks:
        schema.validate(chunk)
    required = [body for body in _without_one(chunks[1]) if "usage" in body]
    assert not [body for body in required if schema.is_valid(body)]


def test_chat_deltas_contain_only_new_text() -> None:
    chunks = _chunks(_chat(_trace(), with_usage=False))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "So"}, {"content": " \ufffd"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    one = {"token": "So", "logprob": -0.5, "bytes": [83, 111]}
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks[:2]] == [
        None,
        {"content": [{**one, "top_logprobs": [one]}], "refusal": None},
    ]
    assert chunks[2]["choices"][0]["logprobs"]["content"][0]["bytes"] == [32, 0xF0, 0x9F]  # part of a character


def test_streamed_completion_starts_with_its_echo() -> None:
    chunks = _chunks(_completion(_trace(), with_usage=False))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Why? ", "So", " \ufffd", ""]
    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[1:3]]
    assert offsets == [[5], [7]]


@pytest.mark.parametrize("make", [_chat, _completion])
def test_stream_has_usage_only_if_requested(make: Any) -> None:
    assert not any("usage" in chunk for chunk in _chunks(make(_trace(), with_usage=False)))
    *chunks, last = _chunks(make(_trace(), with_usage=True))
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
