"""Chat templates render as in transformers, and cannot escape the sandbox."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.models import snapshot
from fledge.models.chat_template import ChatTemplate, read_template, special_tokens

TURNS = [
    Message("system", "Be kind."),
    Message("user", "Hé <b>?"),
    Message("assistant", "Yes."),
    Message("user", "Why?"),
]
CHATML = """{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}{{ '<|im_start|>system\\nHelp.<|im_end|>\\n' }}{% endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
STRICT = """{% if messages[0]['role'] == 'system' %}{% set start = 1 %}{% else %}{% set start = 0 %}{% endif %}
{% for message in messages[start:] %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}
{% endif %}
{% if message.role == 'user' %}{{ bos_token + '[INST] ' + message.content.strip() + ' [/INST]' }}
{% else %}{% generation %}{{ ' ' + message.content + eos_token }}{% endgeneration %}{% endif %}
{% endfor %}"""
OTHER = """{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif -%}
{{ m | tojson }}{{ strftime_now('%Y') }}
{% endfor %}{{ messages | length }}"""
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

Make = Callable[[str], ChatTemplate]


@pytest.fixture
def make() -> Make:
    return lambda source: ChatTemplate(source, TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("source", [CHATML, STRICT, OTHER])
def test_rendering_is_the_same_as_in_transformers(make: Make, source: str) -> None:
    reference = AutoTokenizer.from_pretrained(snapshot.resolve("embedded").path)
    reference.bos_token, reference.eos_token = TOKENS["bos_token"], TOKENS["eos_token"]
    turns = [{"role": item.role, "content": item.content} for item in TURNS]
    expected = reference.apply_chat_template(turns, chat_template=source, add_generation_prompt=True, tokenize=False)
    assert make(source).render(TURNS) == expected


def test_a_template_can_reject_a_conversation(make: Make) -> None:
    template = make(STRICT)
    with pytest.raises(InputError, match=r"refuses the conversation.*roles must alternate"):
        template.render([Message("assistant", "x")])
    assert template.render([Message("user", " x ")]).split() == ["<s>[INST]", "x", "[/INST]"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir(PATH) }}",
        "{{ lipsum.__globals__['os'].mkdir(PATH) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ (messages|attr('__class__')).__base__ }}",
        "{{ raise_exception.__globals__['json'].codecs.open(PATH, 'w') }}",
        "{{ strftime_now.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{% include PATH %}",
        "{% import PATH as x %}",
        "{{ messages.append(1) }}",
        "{% unknown %}",
        "{{ missing.attribute }}",
    ],
)
def test_the_sandbox_cannot_be_escaped(make: Make, source: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    template = make(source.replace("PATH", repr(str(marker))))
    shown = ""
    with contextlib.suppress(InputError):
        shown = template.render(TURNS)
    assert "<class" not in shown
    assert not marker.exists()


def test_a_text_that_is_too_long_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match="its text has 5000000 characters"):
        make("{{ 'a' * 5000000 }}").render(TURNS)


def test_a_lone_surrogate_is_kept(make: Make) -> None:
    assert make("{{ messages[0].content }}").render([Message("user", "a\ud800b")]) == "a\ud800b"


def test_the_template_file_takes_precedence_over_the_config(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None
    named = [{"name": "tool", "template": "no"}, {"name": "default", "template": "named"}]
    for name, content, expected in (
        ("tokenizer_config.json", json.dumps({"chat_template": named}), "named"),
        ("tokenizer_config.json", json.dumps({"chat_template": "single"}), "single"),
        ("chat_template.jinja", "file", "file"),
    ):
        (tmp_path / name).write_text(content)
        found = read_template(tmp_path)
        assert found is not None
        assert found.text == expected


def test_special_tokens_are_strings_or_objects() -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None, "other": "x"}
    assert special_tokens(config) == {"bos_token": "<s>", "eos_token": "</s>"}
