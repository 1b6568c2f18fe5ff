"""Prompts in MLflow's prompt registry. A version never changes; registering the same text again makes no new one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException

from fledge.core.errors import InputError
from fledge.models.embedded.templates import TEMPLATES
from fledge.prompts import template as templates


@dataclass(frozen=True)
class Prompt:
    """One pinned version of a prompt; `uri` names it for MLflow."""

    name: str
    version: int
    template: str
    aliases: tuple[str, ...] = ()
    stored: PromptVersion | None = field(default=None, repr=False, compare=False)

    @property
    def uri(self) -> str:
        return f"prompts:/{self.name}/{self.version}"

    @property
    def label(self) -> str:
        """Short form for people, `name/version`."""
        return f"{self.name}/{self.version}"


def register_prompt(client: MlflowClient, name: str, template: str, message: str = "") -> Prompt:
    """The version of `name` with this text: the newest if it is unchanged, else a new one."""
    templates.check(name, template)
    newest = _newest(client, name)
    if newest is not None and newest.template == template:
        return newest
    return _prompt(mlflow.genai.register_prompt(name, template, commit_message=message or None))


def load_prompt(client: MlflowClient, name: str) -> Prompt:
    """The version that `name`, `name/3` or `name@alias` means; a bare default name is registered at first use.

    Raises `InputError` when there is none.
    """
    if "@" not in name and "/" not in name:
        found = _newest(client, name)
        if found is None and name in TEMPLATES:
            return register_prompt(client, name, TEMPLATES[name], "default of fledge")
    else:
        try:
            found = _prompt(mlflow.genai.load_prompt(f"prompts:/{name}", cache_ttl_seconds=0, link_to_model=False))
        except MlflowException:
            found = None
    if found is None:
        raise InputError(f"no prompt {name!r} in {client.tracking_uri}", hint="fledge prompts list")
    return found


def load_prompts(client: MlflowClient, names: Sequence[str]) -> list[Prompt]:
    """`load_prompt` for each name, in order; one prompt given twice, in whatever version, is an error."""
    prompts = [load_prompt(client, name) for name in names]
    own = [prompt.name for prompt in prompts]
    repeated = {name for name in own if own.count(name) > 1}
    if repeated:
        raise InputError(f"prompt named twice: {', '.join(sorted(repeated))}", hint="give each prompt once")
    return prompts


def list_prompts(client: MlflowClient) -> list[Prompt]:
    """The newest version of every prompt, by name."""
    names = sorted(str(found.name) for found in mlflow.genai.search_prompts())
    return [prompt for name in names if (prompt := _newest(client, name))]


def _newest(client: MlflowClient, name: str) -> Prompt | None:
    try:
        versions = client.search_prompt_versions(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    found = max(versions, key=lambda version: int(version.version), default=None)
    return _prompt(found) if found else None


def _prompt(stored: PromptVersion) -> Prompt:
    if not isinstance(stored.template, str):
        raise InputError(f"prompt {stored.name!r} is a chat prompt; a text prompt is needed here")
    return Prompt(stored.name, int(stored.version), stored.template, tuple(stored.aliases or ()), stored)
