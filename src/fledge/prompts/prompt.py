"""A prompt, one pinned version of a template; what is to be registered; and what keeps prompts."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args

from fledge.core.errors import InputError
from fledge.prompts import template as templates
from fledge.prompts.template import Template

PromptFormat = Literal["auto", "chat", "completion"]
"""How a prompt asks to be put to a model; `auto` is chat for a model with a chat template, else completion."""

FORMATS = get_args(PromptFormat)
FORMAT_TAG, SYSTEM_TAG = "fledge.format", "fledge.system"
MAX_CHARACTERS = 100_000  # MLflow's limit; a server of MLflow 2 takes 5,000 and says so

# MLflow's rules, and no leading dot or hyphen: names are also file names and arguments.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
_REFERENCE = re.compile(rf"(?:prompts:/)?(?P<name>{_NAME})(?:/(?P<version>[1-9][0-9]{{0,8}})|@(?P<alias>[^/@\s]+))?")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,200}")
_TAG = re.compile(r"[\w./: -]{1,250}")
_NUMBERS = {"temperature", "max_tokens", "top_p", "top_k"}
_RESERVED_ALIAS = re.compile(r"latest|v?[0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """One version of a prompt. Template, `format` and `system` never change; aliases, tags and settings may.

    `settings` is what MLflow calls the prompt's `model_config`. `system` is the system text that a text goes with where
    it is asked as chat.
    """

    name: str
    version: int
    template: Template
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    format: PromptFormat = "auto"
    system: str = ""

    @property
    def uri(self) -> str:
        """MLflow's name for it."""
        return f"prompts:/{self.name}/{self.version}"

    @property
    def label(self) -> str:
        """Short form for people, `name/version`."""
        return f"{self.name}/{self.version}"

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables, of system text and all turns, in order of first use."""
        return templates.variables(f"{self.system}\n{self.text}")

    @property
    def text(self) -> str:
        """The template as one text; of a conversation the turns, as `role: content`."""
        if isinstance(self.template, str):
            return self.template
        return "\n".join(f"{turn.role}: {turn.content}" for turn in self.template)

    def fill(self, values: Mapping[str, str]) -> Template:
        """The template, without `system`, with its variables filled in; see `fledge.prompts.format` for what a model is
        asked. Raises `InputError` for a variable without a value."""
        if isinstance(self.template, str):
            return templates.fill(self.template, values)
        return tuple(replace(turn, content=templates.fill(turn.content, values)) for turn in self.template)


@dataclass(frozen=True)
class Draft:
    """What is to be registered. Raises `InputError` for a name, alias or template that cannot be."""

    name: str
    template: Template
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    format: PromptFormat = "auto"
    system: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.name):
            raise InputError(f"{self.name!r} cannot be the name of a prompt", hint="letters, digits, '_', '-' and '.'")
        for alias in self.aliases:
            check_alias(alias)
        for key in self.tags:
            if key.startswith(("mlflow.", "_mlflow")):
                raise InputError(f"tag {key!r} of prompt {self.name!r} is MLflow's own", hint="name it otherwise")
            if key in (FORMAT_TAG, SYSTEM_TAG):
                setting = key.removeprefix("fledge.")
                raise InputError(f"tag {key!r} of prompt {self.name!r} is fledge's own", hint=f"{setting}: ...")
            if not _TAG.fullmatch(key) or posixpath.normpath(key) != key:
                hint = "letters, digits, '_', '-', '.', ':', '/' and spaces"
                raise InputError(f"{key!r} of prompt {self.name!r} cannot be the name of a tag", hint=hint)
        self._check_settings()
        self._check_format()
        templates.check(self.name, self.template, self.system)
        size = len(self.template) if isinstance(self.template, str) else sum(len(t.content) for t in self.template)
        size += len(self.system)
        if size > MAX_CHARACTERS:
            raise InputError(
                f"prompt {self.name!r} has {size:,} characters; MLflow keeps {MAX_CHARACTERS:,}", hint="make it shorter"
            )

    def makes(self, prompt: Prompt) -> bool:
        """Whether a version is what this would become, so that it needs no new one."""
        ours = (self.template, dict(self.settings), self.format, self.system)
        return (prompt.template, dict(prompt.settings), prompt.format, prompt.system) == ours

    def _check_format(self) -> None:
        if self.format not in FORMATS:
            raise InputError(
                f"format of prompt {self.name!r} is {self.format!r}", hint=f"format: one of {', '.join(FORMATS)}"
            )
        is_text = isinstance(self.template, str)
        if self.format == "completion" and not is_text:
            raise InputError(
                f"prompt {self.name!r} is a conversation, which cannot have format: completion",
                hint="leave out format, or write one text",
            )
        if self.system and not is_text:
            raise InputError(
                f"prompt {self.name!r} is a conversation, and has a system text beside it",
                hint="make it the first of its messages: role: system",
            )
        if self.system and self.format == "completion":
            raise InputError(
                f"prompt {self.name!r} has a system text, which format: completion has no place for",
                hint="format: chat, or put it into the text",
            )

    def _check_settings(self) -> None:
        stops = self.settings.get("stop_sequences", [])
        if not isinstance(stops, (list, tuple)) or not all(isinstance(text, str) for text in stops):
            raise InputError(f"stop_sequences of prompt {self.name!r} is a list of texts", hint="stop_sequences: [END]")
        for name in _NUMBERS & set(self.settings):
            value = self.settings[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{name} of prompt {self.name!r} is a number, not {value!r}", hint=f"{name}: 1")


class PromptStore(Protocol):
    """Keeps prompts. Every method raises `InputError` for a name that it does not have."""

    def register(self, draft: Draft) -> Prompt:
        """The newest version if it has this template, else a new one; with the draft's tags, aliases and settings."""
        ...

    def load(self, name: str) -> Prompt:
        """The version that `name`, `name/3` or `name@alias` means; a bare default name is registered at first use."""
        ...

    def list(self, tags: Mapping[str, str]) -> Sequence[Prompt]:
        """The newest version of every prompt that has these tags, by name."""
        ...

    def versions(self, name: str) -> Sequence[Prompt]:
        """All versions, oldest first."""
        ...

    def set_alias(self, name: str, alias: str, version: int) -> int | None:
        """Move or make an alias; the version that had it."""
        ...

    def delete_alias(self, name: str, alias: str) -> int | None:
        """Remove an alias; the version that had it."""
        ...

    def link_to_run(self, prompt: Prompt, run_id: str) -> None:
        """Record that a run uses the prompt."""
        ...


class PromptRef(NamedTuple):
    """A name as a user gives it, taken apart; without version and alias it means the newest version."""

    name: str
    version: int | None
    alias: str | None


def parse_reference(text: str) -> PromptRef:
    """`name`, `name/3` or `name@alias`, with or without `prompts:/` before it. Raises `InputError` for all else."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise InputError(
            f"no prompt {text!r}: that is no prompt's name",
            hint=f"fledge prompts register {text}, then --prompts NAME"
            if text.endswith(".md")
            else "NAME, NAME/3 or NAME@alias; names are of letters, digits, '_', '-' and '.'",
        )
    version = match["version"]
    return PromptRef(match["name"], int(version) if version else None, match["alias"])


def check_alias(alias: str) -> None:
    """Raise `InputError` unless `alias` can be one."""
    if not _ALIAS.fullmatch(alias):
        raise InputError(f"{alias!r} cannot be an alias", hint="letters, digits, '_' and '-'")
    if _RESERVED_ALIAS.fullmatch(alias):
        raise InputError(f"{alias!r} cannot be an alias: it reads as a version", hint="a word, as in: production")
