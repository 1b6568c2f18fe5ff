"""Prompts in MLflow's prompt registry, or in run artifacts if the tracking server has no registry."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast
from uuid import uuid4

from mlflow import MlflowClient
from mlflow.entities.model_registry import PromptVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Message, Say, silent
from fledge.prompts._mlflow_artifacts import ArtifactStore
from fledge.prompts.base_store import Store
from fledge.prompts.prompt import (
    FORMAT_TAG,
    SYSTEM_TAG,
    Draft,
    Prompt,
    PromptFormat,
    PromptRef,
    PromptStore,
)

IS_PROMPT = "tags.`mlflow.prompt.is_prompt` = 'true'"
PAGE = 100
FIRST_VERSION_S = 5.0  # then the process that created the prompt is assumed dead


def open_store(client: MlflowClient, say: Say = silent) -> PromptStore:
    """Open the server's prompt registry; without one use artifacts, and tell `say`."""
    where = re.sub(r"//[^/@]*@", "//", str(client.tracking_uri))
    if _has_registry(client):
        return RegistryStore(client, where)
    say(f"{where} has no prompt registry (MLflow before 2.21): prompts are stored as artifacts of a run")
    return ArtifactStore(client, where)


class RegistryStore(Store):
    """MLflow's prompt registry; a conversation is stored as a list of role and content."""

    def __init__(self, client: MlflowClient, where: str) -> None:
        self.where = where
        self._client = client

    def find(self, reference: PromptRef) -> Prompt | None:
        registered = self._find_registered(reference.name)
        if registered is None:
            return None
        version = reference.version
        if reference.alias and reference.alias != "latest":
            version = _aliases(registered).get(reference.alias)
            if version is None:
                return None
        stored = self._find_version(reference.name, version) if version else self._newest_version(reference.name)
        return _to_prompt(stored, registered) if stored else None

    def newest(self) -> Iterator[tuple[Prompt, Mapping[str, str]]]:
        for registered in self._search(IS_PROMPT):
            stored = self._newest_version(registered.name)
            if stored is not None:
                yield _to_prompt(stored, registered), registered.tags

    def find_versions(self, name: str) -> list[Prompt]:
        registered = self._find_registered(name)
        found: list[PromptVersion] = []
        token: str | None = "" if registered else None
        while token is not None:
            page = self._client.search_prompt_versions(name, max_results=PAGE, page_token=token or None)
            found += page
            token = page.token or None
        return [_to_prompt(stored, registered) for stored in sorted(found, key=lambda stored: int(stored.version))]

    def add(self, draft: Draft) -> int:
        # Not register_prompt, which links the prompt to the experiment in the environment, even a missing one.
        template, tags = draft.template, dict(draft.tags)
        created = False
        try:
            created = self._create(draft)
            if not created:
                if self._find_registered(draft.name) is None:
                    raise InputError(f"{draft.name!r} is the name of a model, and MLflow uses one namespace for both")
                found = self._await_version(draft.name)
                if found is not None and draft.makes(found):
                    return found.version
                for key, value in tags.items():
                    self._client.set_prompt_tag(draft.name, key, value)
            stored = self._client.create_prompt_version(
                draft.name,
                template if isinstance(template, str) else [vars(turn) for turn in template],
                description=draft.message or None,
                tags={**tags, **_fixed_tags(draft)},
                model_config=dict(draft.settings) or None,
            )
        except (MlflowException, ValidationError) as error:
            if created:
                self._client.delete_prompt(draft.name)
            raise _rejected(draft, error) from None
        return int(stored.version)

    def describe(self, prompt: Prompt, draft: Draft) -> None:
        try:
            for key, value in draft.tags.items():
                self._client.set_prompt_tag(prompt.name, key, value)
                self._client.set_prompt_version_tag(prompt.name, prompt.version, key, value)
        except (MlflowException, ValidationError) as error:
            raise _rejected(draft, error) from None

    def aliases(self, name: str) -> Mapping[str, int]:
        registered = self._find_registered(name)
        return _aliases(registered) if registered else {}

    def put_alias(self, name: str, alias: str, version: int | None) -> None:
        if version is None:
            self._client.delete_prompt_alias(name, alias)
        else:
            self._client.set_prompt_alias(name, alias, version)

    def link_to_run(self, prompt: Prompt, run_id: str) -> None:
        self._client.link_prompt_version_to_run(run_id, PromptVersion(prompt.name, prompt.version, prompt.text))

    def _create(self, draft: Draft) -> bool:
        """Create a prompt without versions. Return False if it exists; of concurrent calls only one succeeds."""
        try:
            self._client.create_prompt(draft.name, draft.message or None, dict(draft.tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
        return True

    def _await_version(self, name: str) -> Prompt | None:
        """Return the newest version; wait for the first one of a prompt that another process has just created."""
        until = time.monotonic() + FIRST_VERSION_S
        while (found := self.find(PromptRef(name, None, None))) is None and time.monotonic() < until:
            time.sleep(0.05)
        return found

    # MLflow 3.17 omits aliases from the prompt versions it searches; the registered model has them.
    def _find_registered(self, name: str) -> RegisteredModel | None:
        return next(self._search(f"name = '{name}' AND {IS_PROMPT}"), None)

    def _search(self, filter_string: str) -> Iterator[RegisteredModel]:
        token: str | None = ""
        while token is not None:
            page = self._client.search_registered_models(filter_string, max_results=PAGE, page_token=token or None)
            yield from page
            token = page.token or None

    def _newest_version(self, name: str) -> PromptVersion | None:
        return next(iter(self._client.search_prompt_versions(name, max_results=1)), None)

    def _find_version(self, name: str, version: int) -> PromptVersion | None:
        try:
            return self._client.get_prompt_version(name, version)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def _has_registry(client: MlflowClient) -> bool:
    """Return whether prompts can be registered. Old servers accept searches for prompts, but not new ones.

    The probe always fails, since no prompt has its name; the error code distinguishes the servers.
    """
    if not str(client.tracking_uri).startswith("http"):
        return True
    try:
        client.create_prompt_version(f"fledge-probe-{uuid4().hex}", "{{question}}")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):  # read-only users are refused first
            return True
        # in this order: 2.20 and older; no model registry; a server other than MLflow
        if error.error_code in ("INVALID_PARAMETER_VALUE", "FEATURE_DISABLED", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
            return False
        raise FledgeError(
            f"the prompt registry does not answer: {str(error).splitlines()[0]}", hint="check MLFLOW_TRACKING_URI"
        ) from None
    return True


def _to_prompt(stored: PromptVersion, registered: RegisteredModel) -> Prompt:
    version = int(stored.version)
    template, tags = stored.template, stored.tags
    return Prompt(
        stored.name,
        version,
        template if isinstance(template, str) else tuple(_to_message(turn) for turn in template),
        tuple(alias for alias, target in _aliases(registered).items() if target == version),
        {key: value for key, value in tags.items() if key not in (FORMAT_TAG, SYSTEM_TAG)},
        {key: value for key, value in (stored.model_config or {}).items() if value is not None},
        stored.commit_message or "",
        cast("PromptFormat", tags.get(FORMAT_TAG, "auto")),
        tags.get(SYSTEM_TAG, ""),
    )


def _fixed_tags(draft: Draft) -> dict[str, str]:
    """Return the version tags for fields that the registry lacks; they are set once."""
    form = {FORMAT_TAG: draft.format} if draft.format != "auto" else {}
    return form | ({SYSTEM_TAG: draft.system} if draft.system else {})


def _to_message(stored: Mapping[str, Any]) -> Message:
    """Convert a stored turn; unsupported content gets a role that `template.check` rejects on loading."""
    role, content = stored["role"], stored["content"]
    if isinstance(content, str):
        return Message(role, content)
    return Message(cast("Any", f"{role} with other than text"), json.dumps(content))


def _aliases(registered: RegisteredModel) -> dict[str, int]:
    return {alias: int(version) for alias, version in sorted(registered.aliases.items())}  # text over HTTP


def _rejected(draft: Draft, error: Exception) -> InputError:
    return InputError(f"MLflow rejected prompt {draft.name!r}: {' '.join(str(error).splitlines()[:3])}")
