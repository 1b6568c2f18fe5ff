"""Chat templates: a model's own Jinja template, rendered in a sandbox.

A sandbox does not stop endless loops, so templates are rendered only in a process that can be killed
(`engines/prompt_encoder.py`).
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.models.config_files import FETCH_AGAIN, bad_value, chat_template_source, tokenizer_config

MAX_CHARACTERS = 2_000_000
SHORTEN = "shorten the conversation, or send the prompt as plain text"


class TemplateSource(NamedTuple):
    """A template's text and its special tokens by name, such as `eos_token`."""

    text: str
    tokens: dict[str, str]


MAX_TEMPLATE = 200_000


class ChatTemplate:
    """Renders conversations with one template. `tokens` maps names such as `eos_token` to special tokens."""

    def __init__(self, source: str, tokens: dict[str, str]) -> None:
        self._source = source
        self._tokens = tokens
        self._environment = _create_environment()
        self._template: Template | None = None

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt, ending where the answer begins. Raises `InputError` if the template rejects the
        conversation."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            self._template = self._template or self._environment.from_string(self._source)
            text = self._template.render(messages=turns, add_generation_prompt=True, **self._tokens)
        except MemoryError:
            raise InputError("the model's chat template took too much memory", hint=SHORTEN) from None
        except Exception as error:  # noqa: BLE001 (a template can raise anything; the user sees it)
            reason = f"{type(error).__name__}: {error}"[:500]
            raise InputError(f"the model's chat template refuses the conversation: {reason}") from None
        if len(text) > MAX_CHARACTERS:
            raise InputError(f"the model's chat template refuses the conversation: its text has {len(text)} characters")
        return text


def read_template(folder: Path) -> TemplateSource | None:
    """Return the chat template of a checked snapshot, None if it has none."""
    source = chat_template_source(folder)
    return TemplateSource(source, special_tokens(tokenizer_config(folder))) if source else None


def check_template(value: Any, where: str, field: str) -> None:
    """Raise `InputError` if a chat template, or one of several named ones, cannot be parsed. Renders nothing."""
    items = value if isinstance(value, list) else [value]
    texts = [item.get("template") if isinstance(item, dict) else item for item in items]
    for text in texts:
        if not isinstance(text, str) or len(text) > MAX_TEMPLATE:
            raise bad_value(where, field, value, f"which is not a string of up to {MAX_TEMPLATE:,} characters")
        try:
            _create_environment().parse(text)
        except TemplateError as error:
            place = f"{where}: line {getattr(error, 'lineno', 1)} of the chat template"
            raise InputError(f"{place} is invalid: {str(error)!a}", hint=FETCH_AGAIN) from None
        except RecursionError:
            raise InputError(f"{where}: the chat template is nested too deeply", hint=FETCH_AGAIN) from None


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Return the special tokens of a `tokenizer_config.json` by name."""
    named = {name: config.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: value for name, value in texts.items() if isinstance(value, str)}


class _Generation(Extension):
    """Renders the body of `{% generation %}`, which only marks text to train on."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _create_environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that templates for `transformers.apply_chat_template` expect."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda text: datetime.now().astimezone().strftime(text)
    return environment


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=bool(options.get("ensure_ascii", False)), indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
