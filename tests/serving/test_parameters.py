"""Parameters of the OpenAI protocol: seeds, log probabilities, echo, and what is refused, accepted or ignored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from tokenizers import Tokenizer

from fledge.engines.text import Text
from fledge.engines.transformers import create_text_config, load
from fledge.models import snapshot
from tests.serving.harness import create_workspace, served
from tests.serving.official_client import openai_client

pytestmark = pytest.mark.slow

KEY = "k" * 32
TEMPLATE = "Question: {{question}}\nAnswer:"
QUESTION = "What is machine learning?"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
LONG: dict[str, Any] = {"extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def client(engine_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    config = create_workspace(tmp_path_factory.mktemp("parameters"), engine_cache, TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_API_KEY", KEY)
        with served(config) as running, openai_client(running, KEY) as opened:
            yield opened


def test_seed_is_reproducible_and_each_choice_has_its_own(client: OpenAI) -> None:
    sampling: dict[str, Any] = {"model": "mine", "prompt": "A", "temperature": 1.5, "max_tokens": 12, **LONG, "seed": 5}
    together = [choice.text for choice in client.completions.create(**sampling, n=3).choices]
    alone = [client.completions.create(**{**sampling, "seed": 5 + index}).choices[0].text for index in range(3)]
    assert together == [choice.text for choice in client.completions.create(**sampling, n=3).choices]
    assert together[0] == alone[0]
    assert len({*together, *alone}) == 5
    rows = client.completions.create(**{**sampling, "prompt": ["A", "A"]}).choices
    assert [choice.text for choice in rows] == together[:2]


def test_sampling_without_a_seed_draws_anew(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "prompt": "A", "temperature": 1.5, "max_tokens": 12, **LONG}
    assert len({client.completions.create(**asking).choices[0].text for _ in range(3)}) == 3


def test_logprobs_match_the_text_and_its_offsets(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "prompt": QUESTION, "max_tokens": 8, "logprobs": 1}
    (choice,) = client.completions.create(**asking).choices
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset is not None
    assert found.token_logprobs is not None
    assert "".join(found.tokens) == choice.text
    assert [
        choice.text[at:][: len(token)] for at, token in zip(found.text_offset, found.tokens, strict=True)
    ] == found.tokens
    assert all(value is not None and value <= 0 for value in found.token_logprobs)
    (echoed,) = client.completions.create(**{**asking, "logprobs": None}, echo=True).choices
    assert echoed.text == QUESTION + choice.text

    (chat,) = client.chat.completions.create(model="mine", messages=MESSAGES, max_tokens=3, logprobs=True).choices
    assert chat.logprobs is not None
    content = chat.logprobs.content or []
    assert "".join(token.token for token in content) == chat.message.content
    assert [bytes(token.bytes or []).decode() for token in content] == [token.token for token in content]
    assert all(token.top_logprobs == [] for token in content)


@pytest.fixture
def lenient(client: OpenAI) -> Iterator[OpenAI]:
    """A client that accepts null where the protocol has it and the client's types do not."""
    with OpenAI(base_url=client.base_url, api_key=KEY) as opened:
        yield opened


def test_echoed_prompt_has_its_log_probabilities(lenient: OpenAI) -> None:
    model = snapshot.resolve("embedded")
    ids = Text(create_text_config(model)).encode(QUESTION, 0).token_ids
    with torch.no_grad():
        scores = load(model, "cpu")(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(scores[place, token]) for place, token in enumerate(ids[1:])]
    likeliest = scores.argmax(-1)
    for prompt in (QUESTION, ids, ids):  # twice: log probabilities of cached tokens are there too
        (whole,) = lenient.completions.create(model="mine", prompt=prompt, max_tokens=2, logprobs=1, echo=True).choices
        found = whole.logprobs
        assert found is not None
        assert found.tokens is not None
        values: Any = found.token_logprobs
        tops: Any = found.top_logprobs
        assert whole.text.startswith(QUESTION)
        assert "".join(found.tokens) == whole.text
        assert found.text_offset is not None
        assert [whole.text[at:][: len(token)] for at, token in zip(found.text_offset, found.tokens, strict=True)] == (
            found.tokens
        )
        assert len(found.tokens) == len(ids) + 2
        assert values[0] is None
        assert values[1 : len(ids)] == pytest.approx(expected, abs=1e-3)
        for place, top in enumerate(tops[1 : len(ids)]):
            best = max(top, key=lambda token: top[token])
            assert (best == found.tokens[place + 1]) == (int(likeliest[place]) == ids[place + 1])
    chunks = _streamed(lenient, prompt=ids, max_tokens=2, logprobs=1, echo=True)
    assert "".join(chunks) == whole.text


def test_echo_without_new_tokens_returns_the_prompt(lenient: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "max_tokens": 0, "echo": True}
    scored = {"logprobs": 1}
    for prompt, more in ((QUESTION, {}), ([5, 6, 7], {}), (QUESTION, scored), ([5, 6, 7], scored), ([5], scored)):
        answer = lenient.completions.create(**asking, prompt=prompt, **more)  # type: ignore[call-overload]
        (choice,) = answer.choices
        assert choice.finish_reason == "length"
        assert choice.text
        assert isinstance(prompt, list) or choice.text == prompt
        assert answer.usage.completion_tokens == 0
        assert (choice.logprobs is not None) == bool(more)
    with pytest.raises(openai.BadRequestError, match="max_tokens 0 needs echo"):
        lenient.completions.create(model="mine", prompt="x", max_tokens=0)


def _streamed(client: OpenAI, **asking: Any) -> list[str]:
    with client.completions.create(model="mine", **asking, stream=True) as stream:
        return [chunk.choices[0].text for chunk in stream]


def test_too_long_a_prompt_has_the_protocols_code(client: OpenAI) -> None:
    long: dict[str, Any] = {"model": "mine", "messages": [{"role": "user", "content": "word " * 600}]}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**long, stream=stream)
        assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="mine", prompt=["x", "word " * 600])
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "look"}]),
        ("logit_bias", {"5": 100}),
        ("best_of", 2),
        ("continue_final_message", True),
    ],
)
def test_parameter_that_would_change_the_answer_is_refused(client: OpenAI, name: str, value: Any) -> None:
    for create, prompt in ((client.chat.completions.create, MESSAGES), (client.completions.create, QUESTION)):
        prompts = {"messages" if prompt is MESSAGES else "prompt": prompt}
        with pytest.raises(openai.BadRequestError, match=f"{name} is not supported") as caught:
            create(model="mine", **prompts, extra_body={name: value})  # type: ignore[call-overload]
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


def test_values_that_mean_off_are_accepted(client: OpenAI) -> None:
    plain = client.chat.completions.create(model="mine", messages=MESSAGES).choices[0].message.content
    off = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logit_bias": {},
        "best_of": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "store": True,
        "metadata": {"a": "b"},
        "modalities": None,
        "top_k": -1,
        "top_p": 0,
        "seed": -1,
        "max_tokens": -1,
        "stop": "",
        "service_tier": "auto",
        "user": "me",
    }
    raw = client.chat.completions.with_raw_response.create(model="mine", messages=MESSAGES, extra_body=off)
    assert raw.parse().choices[0].message.content == plain
    assert "x-fledge-warning" not in raw.headers


def test_tool_history_is_rendered_as_text_and_named(client: OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    history: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "It is blue."},
    ]
    raw = client.chat.completions.with_raw_response.create(model="mine", messages=history)
    assert raw.parse().choices[0].message.content
    assert raw.headers["x-fledge-warning"] == "tools, calls and their results are rendered as text"
    text: Any = [
        *MESSAGES,
        {"role": "assistant", "content": '{"name": "look", "arguments": {"at": "sky"}}'},
        {"role": "user", "content": "Result of the tool call c1:\nIt is blue."},
    ]
    same = client.chat.completions.create(model="mine", messages=text, extra_body={"prompt": "none"})
    assert raw.parse().choices[0].message.content == same.choices[0].message.content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"type": "image_url", "image_url": {"url": "data:,"}}],
            "messages.0.content: images are not supported",
        ),
        ([{"type": "text", "text": "a"}, 5], "messages.0.content: part 1 is not a text: only parts of type text"),
        (5, "messages.0.content: must be a text or a list of text parts"),
    ],
)
def test_content_that_is_not_text_has_one_message(client: OpenAI, content: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="mine", messages=[{"role": "user", "content": content}])
    found = caught.value.response.json()["error"]["message"]
    assert found.startswith(message)
    assert "; or" not in found


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([[]], "prompt: prompt 0 is empty"),
        ("", "prompt: the prompt is empty"),
        ([-1], "prompt: the prompt has -1 at position 0; token ids are whole numbers from 0"),
        ([[1], [2, 2.5]], "prompt: prompt 1 has 2.5 at position 1; token ids are whole numbers from 0"),
    ],
)
def test_invalid_prompt_has_one_message_with_the_position(client: OpenAI, prompt: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="mine", prompt=prompt)
    assert caught.value.response.json()["error"]["message"] == message


def test_unknown_parameters_are_ignored_and_named(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "messages": [{**MESSAGES[0], "weight": 1}]}
    plain = client.chat.completions.with_raw_response.create(model="mine", messages=MESSAGES)
    assert "x-fledge-warning" not in plain.headers
    raw = client.chat.completions.with_raw_response.create(
        **asking, logprobs=True, top_logprobs=1, extra_body={"größe\n": 1, "nothing": None}
    )
    assert raw.parse().choices[0].message.content == plain.parse().choices[0].message.content
    named = raw.headers["x-fledge-warning"]
    for name in ("messages.weight", r"gr\u00f6\u00dfe\n"):
        assert name in named
    assert "nothing" not in named
    part = {"type": "text", "text": QUESTION, "tone": "kind"}
    asking = {"messages": [{"role": "user", "content": [part]}], "prompt": {"id": "plain", "version": "2"}}
    raw = client.chat.completions.with_raw_response.create(model="mine", messages=MESSAGES, extra_body=asking)
    assert raw.headers["x-fledge-warning"] == "ignored: messages.content.tone, prompt.version"


def test_max_tokens_beyond_the_window_is_a_limit_and_said(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "messages": MESSAGES, "max_tokens": 1000, **LONG}
    raw = client.chat.completions.with_raw_response.create(**asking)
    usage = raw.parse().usage
    assert usage
    assert usage.total_tokens == 512
    assert raw.parse().choices[0].finish_reason == "length"
    assert raw.headers["x-fledge-warning"] == "1 answer cut at the end of the context window"
    done = client.chat.completions.with_raw_response.create(model="mine", messages=MESSAGES, max_tokens=1000)
    assert done.parse().choices[0].finish_reason == "stop"
    assert "x-fledge-warning" not in done.headers
    ids = client.completions.create(model="mine", prompt=[5] * 300, max_tokens=400, extra_body={"ignore_eos": True})
    assert ids.usage
    assert ids.usage.total_tokens == 512


def test_penalties_break_repetition(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "prompt": QUESTION, "max_tokens": 120, **LONG}
    plain = client.completions.create(**asking).choices[0].text
    for penalty in ("presence_penalty", "frequency_penalty"):
        changed = client.completions.create(**{**asking, penalty: 2})
        assert changed.choices[0].text != plain
        assert client.completions.create(**{**asking, penalty: 0}).choices[0].text == plain


def test_answer_goes_on_to_min_tokens_and_ends_at_a_stop_token(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "messages": MESSAGES, "max_tokens": 60}
    done = client.chat.completions.create(**asking)
    assert done.choices[0].finish_reason == "stop"
    longer = client.chat.completions.create(**asking, extra_body={"min_tokens": 60})
    assert longer.choices[0].finish_reason == "length"
    tokenizer = Tokenizer.from_file(str(snapshot.resolve("embedded").path / "tokenizer.json"))
    text = done.choices[0].message.content or ""
    (second,) = tokenizer.encode(text).ids[1:2]
    ended = client.chat.completions.create(**asking, extra_body={"stop_token_ids": [second]})
    assert ended.choices[0].finish_reason == "stop"
    assert text.startswith(ended.choices[0].message.content or "?")
    assert ended.usage
    assert ended.usage.completion_tokens == 2
    for settings in ({"min_tokens": -1}, {"stop_token_ids": [-1]}, {"presence_penalty": 3}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**asking, extra_body=settings)


def test_special_tokens_in_a_prompt_are_text_unless_parsed(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "prompt": "<|endoftext|>Why?", "max_tokens": 1}
    plain, parsed = (
        client.completions.create(**asking, extra_body={"parse_special": value}).usage for value in (None, True)
    )
    assert plain
    assert parsed
    assert plain.prompt_tokens > parsed.prompt_tokens


def test_top_logprobs_are_the_likeliest_tokens(client: OpenAI) -> None:
    asking: dict[str, Any] = {"model": "mine", "messages": MESSAGES, "max_tokens": 6, "logprobs": True}
    for settings in ({"temperature": 0}, {"temperature": 1.5, "seed": 3}):
        (choice,) = client.chat.completions.create(**asking, **settings, top_logprobs=5).choices
        content = choice.logprobs.content if choice.logprobs else None
        assert content
        assert "".join(token.token for token in content) == choice.message.content
        for token in content:
            values = [other.logprob for other in token.top_logprobs]
            assert len(values) == 5
            assert values == sorted(values, reverse=True)
            assert token.logprob <= values[0] + 1e-5
            if settings["temperature"] == 0:
                assert token.token == token.top_logprobs[0].token
        (one,) = client.chat.completions.create(**asking, **settings, top_logprobs=1).choices
        firsts = [token.top_logprobs[0].token for token in content]
        assert one.logprobs
        assert [token.top_logprobs[0].token for token in one.logprobs.content or []] == firsts
    streamed = list(client.chat.completions.create(**asking, top_logprobs=5, stream=True))
    (tokens,) = [chunk.choices[0].logprobs.content or [] for chunk in streamed if chunk.choices[0].logprobs]
    assert len(tokens) == 6
    (text,) = client.completions.create(model="mine", prompt=QUESTION, max_tokens=4, logprobs=3).choices
    assert text.logprobs
    assert [len(top) in (3, 4) for top in text.logprobs.top_logprobs or []] == [True] * 4
