"""OpenAI's own clients, unmodified, and LangChain's."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import SecretStr

from fledge.core.limits import Limits
from fledge.supervision.endpoints import EndpointStatus
from tests.serving.harness import create_workspace, metrics, pids, served, until
from tests.serving.official_client import openai_client

pytestmark = pytest.mark.slow

KEY = "k" * 32
TEMPLATE = "Question: {{question}}\nAnswer:"
QUESTION = "What is machine learning?"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
LONG: dict[str, Any] = {"max_tokens": 400, "extra_body": {"ignore_eos": True}}
# One request of this size fills the queue.
LIMITS = Limits(queue_tokens=3000)
FILLS = {"n": 8, **LONG}


@pytest.fixture(scope="module")
def endpoint(engine_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointStatus]:
    config = create_workspace(tmp_path_factory.mktemp("openai"), engine_cache, TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_API_KEY", KEY)
        with served(config, limits=LIMITS, open_metrics=True) as running:
            yield running


@pytest.fixture(scope="module")
def client(endpoint: EndpointStatus) -> Iterator[OpenAI]:
    with openai_client(endpoint, KEY) as opened:
        yield opened


def test_chat_completion(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="mine", messages=MESSAGES)
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert answer.model == "mine"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id is not None
    assert answer.id == f"chatcmpl-{answer._request_id}"
    parts = client.chat.completions.create(
        model="mine",
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "machine learning?"}],
            }
        ],
    )
    assert parts.choices == answer.choices


def test_streamed_chunks_join_to_the_whole_answer(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="mine", messages=MESSAGES, n=2, logprobs=True, top_logprobs=1)
    texts, tokens, reasons, usage = ["", ""], [list[Any](), list[Any]()], ["", ""], []
    with client.chat.completions.create(
        model="mine",
        messages=MESSAGES,
        n=2,
        logprobs=True,
        top_logprobs=1,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            usage.append(chunk.usage)
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] += choice.finish_reason or ""
                tokens[choice.index] += (choice.logprobs and choice.logprobs.content) or []
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices] == ["stop", "stop"]
    assert tokens == [choice.logprobs and choice.logprobs.content for choice in whole.choices]
    assert usage[-1] == whole.usage
    assert set(usage[:-1]) == {None}


def test_async_client(endpoint: EndpointStatus, client: OpenAI) -> None:
    async def ask() -> tuple[list[str | None], str]:
        async with AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key=KEY) as asking:
            one = asking.chat.completions.create(model="mine", messages=MESSAGES)
            other = asking.completions.create(model="mine", prompt=QUESTION)
            chat, text = await asyncio.gather(one, other)
            streamed = ""
            async with await asking.chat.completions.create(model="mine", messages=MESSAGES, stream=True) as stream:
                async for chunk in stream:
                    streamed += chunk.choices[0].delta.content or ""
        return [chat.choices[0].message.content, text.choices[0].text], streamed

    (chat, text), streamed = asyncio.run(ask())
    assert (
        chat == streamed == client.chat.completions.create(model="mine", messages=MESSAGES).choices[0].message.content
    )
    assert text == client.completions.create(model="mine", prompt=QUESTION).choices[0].text


def test_stop_sequences_end_an_answer_and_are_not_returned(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="mine", messages=MESSAGES).choices[0].message.content or ""
    third = whole.split(" ")[2]
    for stop in (third, ["never", third, "there", "at all"]):
        (choice,) = client.chat.completions.create(model="mine", messages=MESSAGES, stop=stop).choices
        assert (choice.message.content, choice.finish_reason) == (whole[: whole.index(third)], "stop")
    (cut,) = client.chat.completions.create(model="mine", messages=MESSAGES, max_completion_tokens=2).choices
    assert cut.finish_reason == "length"
    assert whole.startswith(cut.message.content or "-")


def test_completions_of_texts_lists_and_token_ids(client: OpenAI) -> None:
    one = client.completions.create(model="mine", prompt=QUESTION)
    assert one.usage is not None
    assert one.usage.completion_tokens == 16  # the protocol's own default
    assert one._request_id is not None
    assert one.id == f"cmpl-{one._request_id}"
    several = client.completions.create(model="mine", prompt=["Hello", QUESTION], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in several.choices[2:]] == [one.choices[0].text] * 2
    assert several.usage is not None
    assert several.usage.prompt_tokens > one.usage.prompt_tokens  # each prompt once, however many answers
    assert several.usage.prompt_tokens < 2 * one.usage.prompt_tokens

    ids = client.completions.create(model="mine", prompt=[5, 6, 7], max_tokens=4)
    lists = client.completions.create(model="mine", prompt=[[5, 6, 7], [8]], max_tokens=4)
    assert lists.choices[0].text == ids.choices[0].text
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3


def test_streamed_completions_echo_their_prompts(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "prompt": ["Hello", QUESTION], "echo": True, "n": 2}
    whole = client.completions.create(**asking)
    texts = [""] * 4
    # The client's chunk type does not allow a null `finish_reason`.
    with (
        OpenAI(base_url=client.base_url, api_key=KEY) as lenient,
        lenient.completions.create(**asking, stream=True) as stream,
    ):
        for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert texts[0].startswith("Hello")
    assert texts[2].startswith(QUESTION)


@pytest.mark.parametrize(
    ("asking", "kind", "param"),
    [
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"n": 9}, openai.BadRequestError, None),
        ({"max_tokens": 5000}, openai.BadRequestError, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, openai.BadRequestError, "stop"),
        ({"messages": [{"role": "user", "content": None}]}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, openai.BadRequestError, None),
        ({"messages": [{"role": "user", "content": "word " * 600}], "stream": True}, openai.BadRequestError, None),
        ({"model": "other"}, openai.NotFoundError, "model"),
        ({"model": "mine@nobody"}, openai.NotFoundError, "model"),
        ({"model": "mine/2"}, openai.NotFoundError, "model"),
    ],
)
def test_invalid_requests_raise_client_errors_without_retries(
    endpoint: EndpointStatus,
    client: OpenAI,
    asking: dict[str, Any],
    kind: type[openai.APIStatusError],
    param: str | None,
) -> None:
    before = metrics(endpoint, "fledge_requests_total")
    with pytest.raises(kind) as caught:
        client.with_options(max_retries=2).chat.completions.create(**{"model": "mine", "messages": MESSAGES, **asking})
    error = caught.value.response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert until(lambda: metrics(endpoint, "fledge_requests_total") == before + 1)


def test_wrong_key_is_refused(endpoint: EndpointStatus) -> None:
    with (
        OpenAI(base_url=f"{endpoint.url}/v1", api_key="no") as asking,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        asking.models.list()
    error = caught.value.response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"


def test_full_queue_returns_429_and_the_client_retries(endpoint: EndpointStatus, client: OpenAI) -> None:
    def busy() -> bool:
        return any(metrics(endpoint, f"fledge_num_requests_{state}") for state in ("running", "waiting"))

    engine, ask = pids(endpoint)["engine"], client.chat.completions.create
    patient = client.with_options(max_retries=5)
    with ThreadPoolExecutor(2) as others:
        os.kill(engine, signal.SIGSTOP)  # keeps the queue full until it resumes
        try:
            filling = others.submit(lambda: ask(model="mine", messages=MESSAGES, **FILLS))
            assert until(busy)
            with pytest.raises(openai.RateLimitError) as caught:
                ask(model="mine", messages=MESSAGES)
            answer = others.submit(patient.chat.completions.create, model="mine", messages=MESSAGES)
            time.sleep(0.2)
        finally:
            os.kill(engine, signal.SIGCONT)
        assert len(filling.result().choices) == 8
        assert answer.result().choices[0].message.content
    refused = caught.value.response
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_metrics_match_the_usage_in_responses(endpoint: EndpointStatus, client: OpenAI) -> None:
    names = ("fledge_prompt_tokens_total", "fledge_generation_tokens_total", "fledge_request_success_total")
    before = [metrics(endpoint, name) for name in names]
    usage = client.completions.create(model="mine", prompt=["Hello", QUESTION], n=3).usage
    assert usage is not None
    more = [usage.prompt_tokens, usage.completion_tokens, 6]
    expected = [old + new for old, new in zip(before, more, strict=True)]
    assert until(lambda: [metrics(endpoint, name) for name in names] == expected)


def test_models_by_name_alias_and_version(client: OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["mine", "mine@champion"]
    assert all(time.time() - 600 < model.created <= time.time() for model in models)
    assert [model.model_dump()["max_model_len"] for model in models] == [512, 512]
    texts = set()
    for name in ("mine", "mine@champion", "mine/1"):
        assert client.models.retrieve(name).id == name
        raw = client.chat.completions.with_raw_response.create(model=name, messages=MESSAGES)
        texts.add(raw.parse().choices[0].message.content)
        assert raw.headers["x-fledge-release"] == "mine/1"
        assert raw.headers.get("x-fledge-arm") == ("champion" if name != "mine/1" else None)
    assert len(texts) == 1
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_release_prompt_by_name(client: OpenAI) -> None:
    filled = TEMPLATE.replace("{{question}}", QUESTION)
    expected = client.chat.completions.create(model="mine", messages=MESSAGES).choices
    (text,) = client.completions.create(model="mine", prompt=filled, max_tokens=64).choices
    assert expected[0].message.content == text.text
    for prompt in ("plain", "plain/1", {"id": "plain"}, {"id": "plain/1", "variables": {"question": QUESTION}}, None):
        raw = client.chat.completions.with_raw_response.create(
            model="mine", messages=MESSAGES, extra_body={"prompt": prompt}
        )
        assert raw.parse().choices == expected
        assert raw.headers["x-fledge-prompt"] == "plain/1"
    for wrong in ("other", "plain/2", {"id": "other"}):
        with pytest.raises(openai.BadRequestError, match="it has plain/1"):
            client.chat.completions.create(model="mine", messages=MESSAGES, extra_body={"prompt": wrong})


def test_prompt_none_omits_the_release_prompt(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="mine", messages=MESSAGES, extra_body={"prompt": "none"}
    )
    assert "x-fledge-prompt" not in raw.headers
    filled = client.chat.completions.create(model="mine", messages=MESSAGES)
    assert raw.parse().choices[0].message.content != filled.choices[0].message.content
    assert filled.usage is not None
    assert (raw.parse().usage or filled.usage).prompt_tokens < filled.usage.prompt_tokens


def test_langchain_client(endpoint: EndpointStatus, client: OpenAI) -> None:
    whole = client.chat.completions.create(model="mine", messages=MESSAGES, temperature=0.0)
    model = ChatOpenAI(base_url=f"{endpoint.url}/v1", api_key=SecretStr(KEY), model="mine", temperature=0.0)
    answer = model.invoke(QUESTION)
    assert answer.content == whole.choices[0].message.content
    assert answer.usage_metadata is not None
    assert whole.usage is not None
    assert answer.usage_metadata["total_tokens"] == whole.usage.total_tokens
    assert answer.response_metadata["finish_reason"] == "stop"
    assert [found.content for found in model.batch([QUESTION, "Hello", QUESTION])][::2] == [answer.content] * 2
    pieces = [piece.content for piece in model.stream(QUESTION)]
    assert len([piece for piece in pieces if piece]) > 2
    assert "".join(map(str, pieces)) == answer.content
