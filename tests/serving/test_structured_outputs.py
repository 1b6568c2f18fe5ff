"""Structured outputs and tools through the official client and plain requests, on a real engine."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, Field

from tests.serving.harness import create_workspace, served
from tests.serving.official_client import openai_client

pytestmark = pytest.mark.slow

KEY = "k" * 32
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is machine learning?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "$defs": {"Unit": {"enum": ["C", "F"]}},
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome }"]}, "unit": {"$ref": "#/$defs/Unit"}},
            "required": ["city", "unit"],
        },
    },
}
CLOCK: ChatCompletionToolParam = {"type": "function", "function": {"name": "now"}}


class Verdict(BaseModel):
    label: Literal["good", "bad"]
    score: int = Field(ge=1, le=5)


@pytest.fixture(scope="module")
def client(engine_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    config = create_workspace(tmp_path_factory.mktemp("structured"), engine_cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_API_KEY", KEY)
        with served(config) as running, openai_client(running, KEY) as opened:
            yield opened


@pytest.fixture(scope="module")
def http(client: OpenAI) -> Iterator[httpx.Client]:
    base = str(client.base_url).removesuffix("/v1/")
    with httpx.Client(base_url=base, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as opened:
        yield opened


def test_answer_is_an_instance_of_the_type(client: OpenAI) -> None:
    done = client.chat.completions.parse(model="mine", messages=MESSAGES, response_format=Verdict, temperature=1.0)
    assert isinstance(done.choices[0].message.parsed, Verdict)


def test_streamed_answer_is_valid_too(client: OpenAI) -> None:
    with client.chat.completions.stream(model="mine", messages=MESSAGES, response_format=Verdict) as stream:
        for _ in stream:
            pass
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Verdict)


@pytest.mark.parametrize(
    ("structure", "pattern"),
    [
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_regex": "[0-9]{3}-[0-9]{4}"}, "[0-9]{3}-[0-9]{4}"),
        ({"guided_grammar": 'root ::= "a" | "b"'}, "a|b"),
        ({"guided_json": {"type": "integer", "minimum": 3, "maximum": 5}}, "[345]"),
        ({"guided_json": '{"type": "boolean"}'}, "true|false"),
        ({"structured_outputs": {"choice": ["red", "green"]}}, "red|green"),
        ({"structured_outputs": {"json": {"const": 7}}}, "7"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": 7}}}}, "7"),
    ],
)
def test_structure_holds_on_every_route(structure: dict[str, Any], pattern: str, http: httpx.Client) -> None:
    sampling = {"temperature": 1.5, "max_tokens": 20, **structure}
    chat = http.post("/v1/chat/completions", json={"messages": MESSAGES, **sampling}).json()
    text = http.post("/v1/completions", json={"prompt": "A", "n": 2, **sampling}).json()
    table = http.post("/invocations", json={"inputs": ["A", "B"], "params": sampling}).json()
    bare = http.post("/invocations", json={"input": "A", **sampling}).json()
    answers = [chat["choices"][0]["message"]["content"], *(choice["text"] for choice in text["choices"])]
    for answer in (*answers, *table["predictions"], *bare):
        assert re.fullmatch(pattern, answer)


def test_json_object_is_an_object(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "response_format": {"type": "json_object"}, "max_tokens": 400, "temperature": 1.5}
    for seed in range(5):
        (choice,) = http.post("/v1/chat/completions", json={**body, "seed": seed}).json()["choices"]
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)
        else:
            assert choice["message"]["content"].startswith("{")


def test_values_that_ask_for_nothing_leave_the_answer_free(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 8}
    free = http.post("/v1/chat/completions", json=body)
    off = {"response_format": {"type": "text"}, "guided_json": {}, "guided_choice": [], "structured_outputs": {}}
    off |= {"tools": [], "tool_choice": "none"}
    same = http.post("/v1/chat/completions", json={**body, **off})
    assert same.json()["choices"] == free.json()["choices"]
    assert "x-fledge-warning" not in same.headers


@pytest.mark.parametrize(
    ("structure", "param", "message"),
    [
        ({"guided_json": {"not": {}}}, "guided_json", "not cannot be enforced"),
        ({"guided_json": "{"}, "guided_json", "the schema is not JSON"),
        ({"guided_json": False}, "guided_json", "accepts no value"),
        ({"guided_regex": "(a"}, "guided_regex", "invalid pattern"),
        ({"guided_grammar": "root := a"}, "guided_grammar", "invalid grammar"),
        ({"guided_choice": ["a"], "guided_regex": "b"}, "guided_choice", "cannot be combined"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is missing"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
        ({"guided_choice": ["a"], "ignore_eos": True}, None, "ignore_eos cannot be combined"),
        ({"guided_choice": ["a"], "tools": [CLOCK], "tool_choice": "required"}, "tool_choice", "cannot be combined"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]}
            | {"tool_choice": "required"},
            "tools",
            "two different values of type",
        ),
        ({"tools": [CLOCK]}, "tool_choice", '"auto" is not supported'),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"functions": [{"name": "f"}]}, "functions", "is not supported"),
    ],
)
def test_structure_that_cannot_be_enforced_is_refused_by_name(
    structure: dict[str, Any], param: str | None, message: str, http: httpx.Client
) -> None:
    refused = http.post("/v1/chat/completions", json={"messages": MESSAGES, **structure})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert message in error["message"]
    assert error["param"] == param
    assert http.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 2}).status_code == 200


def test_function_that_is_not_listed_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="not among the tools"):
        client.chat.completions.create(
            model="mine",
            messages=MESSAGES,
            tools=[CLOCK],
            tool_choice={"type": "function", "function": {"name": "other"}},
        )


def test_required_tool_is_called_with_valid_arguments(client: OpenAI) -> None:
    names = set()
    for seed in range(6):
        (choice,) = client.chat.completions.create(
            model="mine",
            messages=MESSAGES,
            tools=[WEATHER, CLOCK],
            tool_choice="required",
            seed=seed,
            temperature=1,
            max_tokens=200,
        ).choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        names.add(call.function.name)
        arguments = json.loads(call.function.arguments)
        if call.function.name == "get_weather":
            assert arguments["city"] in ("Paris", "Rome }")
            assert arguments["unit"] in ("C", "F")
        else:
            assert arguments == {}
    assert names <= {"get_weather", "now"}


def test_named_tool_is_called_and_its_result_continues_the_chat(client: OpenAI) -> None:
    (choice,) = client.chat.completions.create(
        model="mine",
        messages=MESSAGES,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "function", "function": {"name": "now"}},
    ).choices
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "now"
    history: list[Any] = [*MESSAGES, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "noon"}]
    assert client.chat.completions.create(model="mine", messages=history, max_tokens=4).choices[0].message.content


def test_streamed_call_is_that_of_the_whole_answer(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "messages": MESSAGES, "tools": [WEATHER], "tool_choice": "required"}
    (whole,) = client.chat.completions.create(**asking).choices[0].message.tool_calls or []
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asking, stream=True)]
    deltas = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert [bool(delta.id) for delta in deltas] == [True, *[False] * (len(deltas) - 1)]
    assert deltas[0].function
    assert whole.type == "function"
    assert deltas[0].function.name == whole.function.name
    assert "".join(delta.function.arguments or "" for delta in deltas if delta.function) == whole.function.arguments
    assert chunks[-1].finish_reason == "tool_calls"
    assert all(chunk.delta.content is None for chunk in chunks)


def test_call_that_is_cut_ends_with_length(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "messages": MESSAGES, "tools": [WEATHER], "tool_choice": "required"}
    (choice,) = client.chat.completions.create(**asking, max_tokens=3).choices
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls == []


def test_tools_are_told_to_the_model_and_said_in_the_header(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "tools": [WEATHER], "tool_choice": "required", "prompt": "none"}
    told = http.post("/v1/chat/completions", json=body)
    free = http.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 1, "prompt": "none"})
    assert told.json()["usage"]["prompt_tokens"] > free.json()["usage"]["prompt_tokens"] + 50
    assert "rendered as text" in told.headers["x-fledge-warning"]
