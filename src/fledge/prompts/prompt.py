"""Prompts (immutable versions of a template), drafts to register, and the prompt store protocol."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args

from fledge.core.errors import InputError
from fledge.prompts import template as templates
from fledge.prompts.template import Template

PromptFormat = Literal["auto", "chat", "completion"]
"""Format in which a prompt is sent; `auto` is chat for a model with a chat template, else completion."""

FORMATS = get_args(PromptFormat)
FORMAT_TAG, SYSTEM_TAG = "fledge.format", "fledge.system"
MAX_CHARACTERS = 100_000  # MLflow's limit; MLflow 2 servers report their own, 5,000

# MLflow's rules, without a leading dot or hyphen, since names are also file names and arguments.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
_REFERENCE = re.compile(rf"(?:prompts:/)?(?P<name>{_NAME})(?:/(?P<version>[1-9][0-9]{{0,8}})|@(?P<alias>[^/@\s]+))?")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,200}")
_TAG = re.compile(r"[\w./: -]{1,250}")
_NUMBERS = {"temperature", "max_tokens", "top_p", "top_k"}
_RESERVED_ALIAS = re.compile(r"latest|v?[0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """One version of a prompt. Template, `format` and `system` are immutable; aliases, tags and settings are not.

    `settings` is the prompt's `model_config` in MLflow. `system` is the system text of a text prompt sent as chat.
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
        """URI in MLflow."""
        return f"prompts:/{self.name}/{self.version}"

    @property
    def label(self) -> str:
        """Display name, `name/version`."""
        return f"{self.name}/{self.version}"

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables in the system text and all turns, in order of first use."""
        return templates.variables(f"{self.system}\n{self.text}")

    @property
    def text(self) -> str:
        """The template as one text; a conversation as lines of `role: content`."""
        if isinstance(self.template, str):
            return self.template
        return "\n".join(f"{turn.role}: {turn.content}" for turn in self.template)

    def fill(self, values: Mapping[str, str]) -> Template:
        """Fill the variables of the template, without `system`; `fledge.prompts.format` builds what is sent to a model.
        Raises `InputError` for a variable without a value."""
        if isinstance(self.template, str):
            return templates.fill(self.template, values)
        return tuple(replace(turn, content=templates.fill(turn.content, values)) for turn in self.template)


@dataclass(frozen=True)
class Draft:
    """A prompt to register. Raises `InputError` for an invalid name, alias, tag, setting or template."""

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
                raise InputError(f"tag {key!r} of prompt {self.name!r} is reserved by MLflow", hint="use another name")
            if key in (FORMAT_TAG, SYSTEM_TAG):
                setting = key.removeprefix("fledge.")
                raise InputError(f"tag {key!r} of prompt {self.name!r} is reserved by fledge", hint=f"{setting}: ...")
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
                f"prompt {self.name!r} has {size:,} characters, the maximum is {MAX_CHARACTERS:,}", hint="shorten it"
            )

    def makes(self, prompt: Prompt) -> bool:
        """Return whether registering would only repeat this version."""
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
                hint="omit format, or write one text",
            )
        if self.system and not is_text:
            raise InputError(
                f"prompt {self.name!r} is a conversation with a separate system text",
                hint="make it the first of its messages: role: system",
            )
        if self.system and self.format == "completion":
            raise InputError(
                f"prompt {self.name!r} has a system text, which format: completion does not support",
                hint="format: chat, or put it into the text",
            )

    def _check_settings(self) -> None:
        stops = self.settings.get("stop_sequences", [])
        if not isinstance(stops, (list, tuple)) or not all(isinstance(text, str) for text in stops):
            raise InputError(
                f"stop_sequences of prompt {self.name!r} must be a list of texts", hint="stop_sequences: [END]"
            )
        for name in _NUMBERS & set(self.settings):
            value = self.settings[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{name} of prompt {self.name!r} must be a number, not {value!r}", hint=f"{name}: 1")


class PromptStore(Protocol):
    """Stores prompts. Every method raises `InputError` for an unknown name."""

    def register(self, draft: Draft) -> Prompt:
        """Register a draft as a new version, unless the newest one is the same; set its tags and aliases."""
        ...

    def load(self, name: str) -> Prompt:
        """Load `name` (newest version), `name/3` or `name@alias`; a default prompt is registered on first use."""
        ...

    def list(self, tags: Mapping[str, str]) -> Sequence[Prompt]:
        """Return the newest version of every prompt with these tags, by name."""
        ...

    def versions(self, name: str) -> Sequence[Prompt]:
        """Return all versions, oldest first."""
        ...

    def set_alias(self, name: str, alias: str, version: int) -> int | None:
        """Set an alias; return the version that had it."""
        ...

    def delete_alias(self, name: str, alias: str) -> int | None:
        """Delete an alias; return the version that had it."""
        ...

    def link_to_run(self, prompt: Prompt, run_id: str) -> None:
        """Record that a run uses the prompt."""
        ...


class PromptRef(NamedTuple):
    """A parsed prompt name; without version and alias it refers to the newest version."""

    name: str
    version: int | None
    alias: str | None


def parse_reference(text: str) -> PromptRef:
    """Parse `name`, `name/3` or `name@alias`, with an optional `prompts:/`. Raises `InputError` for anything else."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise InputError(
            f"no prompt {text!r}: invalid name",
            hint=f"fledge prompts register {text}, then --prompts NAME"
            if text.endswith(".md")
            else "NAME, NAME/3 or NAME@alias; names consist of letters, digits, '_', '-' and '.'",
        )
    version = match["version"]
    return PromptRef(match["name"], int(version) if version else None, match["alias"])


def check_alias(alias: str) -> None:
    """Raise `InputError` for an invalid alias."""
    if not _ALIAS.fullmatch(alias):
        raise InputError(f"{alias!r} cannot be an alias", hint="letters, digits, '_' and '-'")
    if _RESERVED_ALIAS.fullmatch(alias):
        raise InputError(f"{alias!r} cannot be an alias: it looks like a version", hint="use a word, as in: production")
