"""A prompt that makes a template or tokenizer fail is an error for that prompt only."""

import json
import selectors
from collections.abc import Callable, Iterator
from dataclasses import replace

import psutil
import pytest

from fledge.core.errors import ContextLengthError, FledgeError, InputError
from fledge.core.types import Message
from fledge.engines.engine import PromptInput
from fledge.engines.prompt_encoder import PromptEncoder
from fledge.engines.text import Encoded, Text, TextConfig
from fledge.models import snapshot

Make = Callable[..., PromptEncoder]


@pytest.fixture(scope="module")
def config() -> TextConfig:
    model = snapshot.resolve("embedded")
    return TextConfig.of(model, (model.path / "tokenizer.json").read_text())


@pytest.fixture
def make(config: TextConfig) -> Iterator[Make]:
    made: list[PromptEncoder] = []

    def encoder(**changes: str) -> PromptEncoder:
        made.append(PromptEncoder(replace(config, **changes)))  # type: ignore[arg-type]
        return made[-1]

    yield encoder
    for item in made:
        item.close()


def encode_all(encoder: PromptEncoder, prompts: list[PromptInput]) -> list[Encoded | FledgeError]:
    """Send all prompts at once and return their results."""
    found: list[Encoded | FledgeError] = []
    for prompt in prompts:
        encoder.send(prompt, 10, found.append)  # type: ignore[arg-type]
    while len(found) < len(prompts):
        with selectors.DefaultSelector() as selector:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if encoder.is_full else 0)
            selector.register(encoder.line, events)
            selector.select()
        encoder.exchange()
    return found


def test_results_come_in_order_with_the_tokens_of_the_tokenizer(make: Make, config: TextConfig) -> None:
    text = Text(config)
    prompts: list[PromptInput] = [f"number {number}" for number in range(300)]
    prompts.append([Message("user", "one"), Message("assistant", "two"), Message("user", "three")])
    assert encode_all(make(), prompts) == [text.encode(prompt, 10) for prompt in prompts]


def test_prompts_larger_than_the_socket_buffer_are_encoded(make: Make, config: TextConfig) -> None:
    large = "word " * 200_000
    found = encode_all(make(), [large, "small", large, "small"])
    assert [type(item) for item in found] == [ContextLengthError, Encoded, ContextLengthError, Encoded]
    assert "the model takes 512" in str(found[0])


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set a = namespace(v=['x'] * 1000) %}{% for i in range(60) %}{% set a.v = a.v + a.v %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ (1 + messages | length) ** (2 ** 60) }}",
    ],
)
def test_an_endless_template_is_stopped(make: Make, source: str) -> None:
    encoder = make(template="{% if messages[0].content == 'bomb' %}" + source + "{% endif %}ok")
    before, bomb, after = encode_all(encoder, [[Message("user", text)] for text in ("x", "bomb", "x")])
    assert isinstance(bomb, InputError)
    assert "chat template" in bomb.message
    assert isinstance(before, Encoded)
    assert after == before


def _with(config: TextConfig, **parts: object) -> str:
    return json.dumps({**json.loads(config.tokenizer), **parts})


def test_a_tokenizer_panic_fails_only_that_prompt(make: Make, config: TextConfig) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    encoder = make(tokenizer=_with(config, pre_tokenizer=split))
    before, panic, after = encode_all(encoder, ["hello", "a" * 40 + "b", "hello"])
    assert isinstance(panic, InputError)
    assert "tokenizer" in panic.message
    assert isinstance(before, Encoded)
    assert after == before


def test_a_tokenizer_out_of_memory_fails_only_that_prompt(make: Make, config: TextConfig) -> None:
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    encoder = make(tokenizer=_with(config, normalizer={"type": "Sequence", "normalizers": [grow] * 4}))
    before, bomb, after = encode_all(encoder, ["hello", "a", "hello"])
    assert isinstance(bomb, InputError)
    assert "tokenizer" in bomb.message
    assert isinstance(before, Encoded)
    assert after == before


def test_a_slow_tokenizer_is_stopped(make: Make, config: TextConfig) -> None:
    """Each word is slow, but not so slow that the regular expression gives up."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    encoder = make(tokenizer=_with(config, pre_tokenizer=split))
    slow, after = encode_all(encoder, ["aaaaaaaaaaaaaaaaaaaaab" * 200, "hello"])
    assert isinstance(slow, InputError)
    assert isinstance(after, Encoded)


def test_an_invalid_tokenizer_is_an_error(config: TextConfig) -> None:
    encoder = PromptEncoder(replace(config, tokenizer="{}"))
    try:
        with pytest.raises(FledgeError, match="tokenizer cannot be loaded"):
            encode_all(encoder, ["x"])
    finally:
        encoder.close()


def test_close_ends_the_child(make: Make) -> None:
    before = {child.pid for child in psutil.Process().children()}
    encoder = make()
    (pid,) = {child.pid for child in psutil.Process().children()} - before
    encoder.close()
    assert not psutil.pid_exists(pid)
