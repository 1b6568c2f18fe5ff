"""Prompts in MLflow's prompt registry, or, where the tracking server has none, in the artifacts of a run."""

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
FIRST_VERSION_S = 5.0  # after that, who made the prompt is taken to have died


def open_store(client: MlflowClient, say: Say = silent) -> PromptStore:
    """The server's prompt registry; `say` is told where it has none and artifacts are used instead."""
    where = re.sub(r"//[^/@]*@", "//", str(client.tracking_uri))
    if _has_registry(client):
        return RegistryStore(client, where)
    say(f"{where} has no prompt registry (MLflow before 2.21): prompts are kept as artifacts of a run")
    return ArtifactStore(client, where)


class RegistryStore(Store):
    """MLflow's own registry; a conversation is a list of role and content there."""

    def __init__(self, client: MlflowClient, where: str) -> None:
        self.where = where
        self._client = client

    def find(self, reference: PromptRef) -> Prompt | None:
        registered = self._registered(reference.name)
        if registered is None:
            return None
        version = reference.version
        if reference.alias and reference.alias != "latest":
            version = _aliases(registered).get(reference.alias)
            if version is None:
                return None
        stored = self._version(reference.name, version) if version else self._newest(reference.name)
        return _prompt(stored, registered) if stored else None

    def newest(self) -> Iterator[tuple[Prompt, Mapping[str, str]]]:
        for registered in self._search(IS_PROMPT):
            stored = self._newest(registered.name)
            if stored is not None:
                yield _prompt(stored, registered), registered.tags

    def find_versions(self, name: str) -> list[Prompt]:
        registered = self._registered(name)
        found: list[PromptVersion] = []
        token: str | None = "" if registered else None
        while token is not None:
            page = self._client.search_prompt_versions(name, max_results=PAGE, page_token=token or None)
            found += page
            token = page.token or None
        return [_prompt(stored, registered) for stored in sorted(found, key=lambda stored: int(stored.version))]

    def add(self, draft: Draft) -> int:
        # Not register_prompt: it would put the prompt under the experiment that the environment names, here or not.
        template, tags = draft.template, dict(draft.tags)
        created = False
        try:
            created = self._create(draft)
            if not created:
                if self._registered(draft.name) is None:
                    raise InputError(f"{draft.name!r} is the name of a model, and MLflow keeps both in one place")
                found = self._awaited(draft.name)
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
            raise _refused(draft, error) from None
        return int(stored.version)

    def describe(self, prompt: Prompt, draft: Draft) -> None:
        try:
            for key, value in draft.tags.items():
                self._client.set_prompt_tag(prompt.name, key, value)
                self._client.set_prompt_version_tag(prompt.name, prompt.version, key, value)
        except (MlflowException, ValidationError) as error:
            raise _refused(draft, error) from None

    def aliases(self, name: str) -> Mapping[str, int]:
        registered = self._registered(name)
        return _aliases(registered) if registered else {}

    def put_alias(self, name: str, alias: str, version: int | None) -> None:
        if version is None:
            self._client.delete_prompt_alias(name, alias)
        else:
            self._client.set_prompt_alias(name, alias, version)

    def link_to_run(self, prompt: Prompt, run_id: str) -> None:
        self._client.link_prompt_version_to_run(run_id, PromptVersion(prompt.name, prompt.version, prompt.text))

    def _create(self, draft: Draft) -> bool:
        """Make a prompt without versions, which one alone can of several that try at once."""
        try:
            self._client.create_prompt(draft.name, draft.message or None, dict(draft.tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
        return True

    def _awaited(self, name: str) -> Prompt | None:
        """The newest version of a prompt that is there, or that somebody else made this moment."""
        until = time.monotonic() + FIRST_VERSION_S
        while (found := self.find(PromptRef(name, None, None))) is None and time.monotonic() < until:
            time.sleep(0.05)
        return found

    # MLflow 3.17 leaves the aliases out of prompt versions that it searches, and has them on what they are kept as.
    def _registered(self, name: str) -> RegisteredModel | None:
        return next(self._search(f"name = '{name}' AND {IS_PROMPT}"), None)

    def _search(self, filter_string: str) -> Iterator[RegisteredModel]:
        token: str | None = ""
        while token is not None:
            page = self._client.search_registered_models(filter_string, max_results=PAGE, page_token=token or None)
            yield from page
            token = page.token or None

    def _newest(self, name: str) -> PromptVersion | None:
        return next(iter(self._client.search_prompt_versions(name, max_results=1)), None)

    def _version(self, name: str, version: int) -> PromptVersion | None:
        try:
            return self._client.get_prompt_version(name, version)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def _has_registry(client: MlflowClient) -> bool:
    """Whether a prompt can be registered: an old server searches for prompts well, and refuses them.

    The attempt cannot succeed, for lack of a prompt with that name; what it fails of tells the servers apart.
    """
    if not str(client.tracking_uri).startswith("http"):
        return True
    try:
        client.create_prompt_version(f"fledge-probe-{uuid4().hex}", "{{question}}")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):  # who may only read is refused first
            return True
        # 2.20 and older: a source they do not know; no model registry at all; a server that is not MLflow's own
        if error.error_code in ("INVALID_PARAMETER_VALUE", "FEATURE_DISABLED", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
            return False
        raise FledgeError(
            f"the prompt registry does not answer: {str(error).splitlines()[0]}", hint="check MLFLOW_TRACKING_URI"
        ) from None
    return True


def _prompt(stored: PromptVersion, registered: RegisteredModel) -> Prompt:
    version = int(stored.version)
    template, tags = stored.template, stored.tags
    return Prompt(
        stored.name,
        version,
        template if isinstance(template, str) else tuple(_turn(turn) for turn in template),
        tuple(alias for alias, target in _aliases(registered).items() if target == version),
        {key: value for key, value in tags.items() if key not in (FORMAT_TAG, SYSTEM_TAG)},
        {key: value for key, value in (stored.model_config or {}).items() if value is not None},
        stored.commit_message or "",
        cast("PromptFormat", tags.get(FORMAT_TAG, "auto")),
        tags.get(SYSTEM_TAG, ""),
    )


def _fixed_tags(draft: Draft) -> dict[str, str]:
    """What the registry has no field for, as tags of the version; fledge sets them once."""
    form = {FORMAT_TAG: draft.format} if draft.format != "auto" else {}
    return form | ({SYSTEM_TAG: draft.system} if draft.system else {})


def _turn(stored: Mapping[str, Any]) -> Message:
    """A turn as it is kept; what fledge cannot send gets a role that `template.check` refuses when it is loaded."""
    role, content = stored["role"], stored["content"]
    if isinstance(content, str):
        return Message(role, content)
    return Message(cast("Any", f"{role} with other than text"), json.dumps(content))


def _aliases(registered: RegisteredModel) -> dict[str, int]:
    return {alias: int(version) for alias, version in sorted(registered.aliases.items())}  # text over HTTP


def _refused(draft: Draft, error: Exception) -> InputError:
    return InputError(f"MLflow does not take prompt {draft.name!r}: {' '.join(str(error).splitlines()[:3])}")
