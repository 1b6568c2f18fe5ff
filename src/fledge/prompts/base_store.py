"""Base class of prompt stores: resolves names, detects unchanged prompts, and lists."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from fledge.core.errors import InputError
from fledge.models.embedded.templates import TEMPLATES
from fledge.prompts import template as templates
from fledge.prompts.prompt import (
    FORMAT_TAG,
    FORMATS,
    Draft,
    Prompt,
    PromptRef,
    check_alias,
    parse_reference,
)

# Registered on first use. `question` is for targets with their own prompt, such as an endpoint.
DEFAULTS = {**TEMPLATES, "question": "{{question}}"}


class Store(ABC):
    """`PromptStore` on top of a back end that reads, adds and tags versions and sets aliases."""

    where: str

    @abstractmethod
    def find(self, reference: PromptRef) -> Prompt | None:
        """Return a version or None; the newest without version and alias."""

    @abstractmethod
    def newest(self) -> Iterable[tuple[Prompt, Mapping[str, str]]]:
        """Return the newest version of every prompt, with the prompt-level tags."""

    @abstractmethod
    def find_versions(self, name: str) -> Sequence[Prompt]:
        """Return all versions, oldest first; none for an unknown name."""

    @abstractmethod
    def add(self, draft: Draft) -> int:
        """Store the draft as a new version and return its number."""

    @abstractmethod
    def describe(self, prompt: Prompt, draft: Draft) -> None:
        """Set the draft's tags on an existing version."""

    @abstractmethod
    def aliases(self, name: str) -> Mapping[str, int]:
        """Return the aliases of an existing prompt with their versions."""

    @abstractmethod
    def put_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias to an existing version, or delete it."""

    @abstractmethod
    def link_to_run(self, prompt: Prompt, run_id: str) -> None: ...

    def register(self, draft: Draft) -> Prompt:
        found = self.find(PromptRef(draft.name, None, None))
        if found is not None and draft.makes(found):
            version = found.version
            self.describe(found, draft)
        else:
            version = self.add(draft)
        for alias in draft.aliases:
            self.put_alias(draft.name, alias, version)
        return self._get(PromptRef(draft.name, version, None))

    def load(self, name: str) -> Prompt:
        reference = parse_reference(name)
        found = self.find(reference)
        if found is None and name in DEFAULTS:
            return self.register(Draft(name, DEFAULTS[name], message="default of fledge"))
        if found is None:
            raise self._unknown_prompt(name)
        templates.check(found.label, found.template, found.system)  # may be registered by other tools
        if found.format not in FORMATS:
            raise InputError(
                f"prompt {found.label} has the tag {FORMAT_TAG} = {found.format!r}", hint=f"one of {', '.join(FORMATS)}"
            )
        return found

    def list(self, tags: Mapping[str, str]) -> Sequence[Prompt]:
        found = [prompt for prompt, own in self.newest() if tags.items() <= {**own, **prompt.tags}.items()]
        return sorted(found, key=lambda prompt: prompt.name)

    def versions(self, name: str) -> Sequence[Prompt]:
        found = self.find_versions(name)
        if not found:
            raise self._unknown_prompt(name)
        return found

    def set_alias(self, name: str, alias: str, version: int) -> int | None:
        check_alias(alias)
        self._get(PromptRef(name, version, None))
        before = self.aliases(name).get(alias)
        self.put_alias(name, alias, version)
        return before

    def delete_alias(self, name: str, alias: str) -> int | None:
        self._get(PromptRef(name, None, None))
        before = self.aliases(name).get(alias)
        if before is None:
            raise InputError(f"prompt {name!r} has no alias {alias!r}", hint=f"fledge prompts show {name}")
        self.put_alias(name, alias, None)
        return before

    def _get(self, reference: PromptRef) -> Prompt:
        found = self.find(reference)
        if found is None:
            raise self._unknown_prompt(f"{reference.name}/{reference.version}" if reference.version else reference.name)
        return found

    def _unknown_prompt(self, name: str) -> InputError:
        return InputError(f"no prompt {name!r} in {self.where}", hint="fledge prompts list")
