"""What every store of prompts does alike: which version a name means, when a prompt is new, what is listed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.core.types import Say, silent
from fledge.models.embedded.templates import TEMPLATES
from fledge.prompts import template as templates
from fledge.prompts.prompt import (
    FORMAT_TAG,
    FORMATS,
    Draft,
    Prompt,
    PromptRef,
    PromptStore,
    check_alias,
    parse_reference,
)

# Registered at first use; `question` asks what has a prompt of its own, as an endpoint does.
DEFAULTS = {**TEMPLATES, "question": "{{question}}"}


class Store(ABC):
    """`PromptStore` over the few things that a back end has to do: read, add, describe, and keep aliases."""

    where: str

    @abstractmethod
    def find(self, reference: PromptRef) -> Prompt | None:
        """One version, None where there is none; without version and alias the newest."""

    @abstractmethod
    def newest(self) -> Iterable[tuple[Prompt, Mapping[str, str]]]:
        """The newest version of every prompt, each with the tags of the prompt as a whole."""

    @abstractmethod
    def find_versions(self, name: str) -> Sequence[Prompt]:
        """All versions, oldest first; none for an unknown name."""

    @abstractmethod
    def add(self, draft: Draft) -> int:
        """Keep the draft as a new version; its number."""

    @abstractmethod
    def describe(self, prompt: Prompt, draft: Draft) -> None:
        """Set tags of the draft on a version that exists."""

    @abstractmethod
    def aliases(self, name: str) -> Mapping[str, int]:
        """The aliases of a prompt that exists, each with its version."""

    @abstractmethod
    def put_alias(self, name: str, alias: str, version: int | None) -> None:
        """Let an alias mean a version that exists, or nothing."""

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
            raise self._unknown(name)
        templates.check(found.label, found.template, found.system)  # others register too, with MLflow's own rules
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
            raise self._unknown(name)
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
            raise self._unknown(f"{reference.name}/{reference.version}" if reference.version else reference.name)
        return found

    def _unknown(self, name: str) -> InputError:
        return InputError(f"no prompt {name!r} in {self.where}", hint="fledge prompts list")


def open_prompts(*, workspace: Workspace | None = None, say: Say = silent) -> PromptStore:
    """The prompts of a workspace: in MLflow's prompt registry, or as artifacts where the server has none (`say` hears
    of it)."""
    from fledge.prompts._mlflow_registry import open_store
    from fledge.tracking._mlflow_connection import connect

    return open_store(connect((workspace or Workspace()).tracking), say)
