"""Prompts as JSON artifacts of one run, for tracking servers without a prompt registry.

`prompts/NAME/VERSION.json` never changes; `prompts/NAME/labels.json` holds the mutable aliases, tags and settings.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from fledge.core.errors import FledgeError
from fledge.core.types import Message
from fledge.prompts.base_store import Store
from fledge.prompts.prompt import Draft, Prompt, PromptRef
from fledge.tracking._mlflow_connection import experiment_id, run_within

EXPERIMENT = "fledge-prompts"
KIND = "prompts"
LINKED_TAG = "fledge.prompts"
ATTEMPTS = 20


@dataclass
class Labels:
    """Mutable data: aliases of a prompt, and tags and settings by version number as text."""

    aliases: dict[str, int] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


class ArtifactStore(Store):
    """Fallback store; with concurrent changes to the labels of a prompt the last write wins."""

    def __init__(self, client: MlflowClient, where: str) -> None:
        self.where = where
        self._client = client
        self._found: Run | None = None

    def find(self, reference: PromptRef) -> Prompt | None:
        numbers = self._version_numbers(reference.name)
        version = reference.version or (numbers[-1] if numbers else None)
        if reference.alias and reference.alias != "latest":
            version = self.aliases(reference.name).get(reference.alias)
        return self._read(reference.name, version, self._load_labels(reference.name)) if version in numbers else None

    def newest(self) -> Iterator[tuple[Prompt, Mapping[str, str]]]:
        for name in self._list_names("prompts"):
            found = self.find(PromptRef(name, None, None))
            if found is not None:
                tags = self._load_labels(name).tags
                yield found, {key: value for own in tags.values() for key, value in own.items()}

    def find_versions(self, name: str) -> list[Prompt]:
        numbers = self._version_numbers(name)
        labels = self._load_labels(name)
        return [self._read(name, version, labels) for version in numbers]

    def add(self, draft: Draft) -> int:
        version = self._claim(draft.name)
        template = draft.template
        content = template if isinstance(template, str) else [asdict(turn) for turn in template]
        stored = {"template": content, "message": draft.message, "format": draft.format, "system": draft.system}
        self._write(f"{draft.name}/{version}.json", stored)
        self._write_labels(draft, version)
        return version

    def describe(self, prompt: Prompt, draft: Draft) -> None:
        self._write_labels(draft, prompt.version)

    def aliases(self, name: str) -> Mapping[str, int]:
        return self._load_labels(name).aliases

    def put_alias(self, name: str, alias: str, version: int | None) -> None:
        labels = self._load_labels(name)
        if version is None:
            del labels.aliases[alias]
        else:
            labels.aliases[alias] = version
        self._write(f"{name}/labels.json", asdict(labels))

    def link_to_run(self, prompt: Prompt, run_id: str) -> None:
        linked = self._client.get_run(run_id).data.tags.get(LINKED_TAG, "").split()
        if prompt.label not in linked:
            self._client.set_tag(run_id, LINKED_TAG, " ".join([*linked, prompt.label]))

    def _claim(self, name: str) -> int:
        """Claim a version number; a run's parameter can be set only once, so no other client can claim it."""
        run_id = self._ensure_run().info.run_id
        first = max(self._version_numbers(name), default=0) + 1
        for version in range(first, first + ATTEMPTS):
            try:
                self._client.log_param(run_id, f"{name}/{version}", uuid4().hex)
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
            else:
                return version
        raise FledgeError(f"cannot claim a version number for prompt {name!r} in {self.where}", hint="try again")

    def _write_labels(self, draft: Draft, version: int) -> None:
        if not (draft.tags or draft.settings):
            return
        labels = self._load_labels(draft.name)
        labels.tags.setdefault(str(version), {}).update(draft.tags)
        if draft.settings:
            labels.settings[str(version)] = dict(draft.settings)
        self._write(f"{draft.name}/labels.json", asdict(labels))

    def _read(self, name: str, version: int, labels: Labels) -> Prompt:
        stored = self._load(f"{name}/{version}.json")
        template = stored["template"]
        return Prompt(
            name,
            version,
            template if isinstance(template, str) else tuple(Message(**turn) for turn in template),
            tuple(alias for alias, target in sorted(labels.aliases.items()) if target == version),
            labels.tags.get(str(version), {}),
            labels.settings.get(str(version), {}),
            stored["message"],
            stored.get("format", "auto"),
            stored.get("system", ""),
        )

    def _version_numbers(self, name: str) -> list[int]:
        stems = [file.removesuffix(".json") for file in self._list_names(f"prompts/{name}")]
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def _load_labels(self, name: str) -> Labels:
        if "labels.json" not in self._list_names(f"prompts/{name}"):
            return Labels()
        return Labels(**self._load(f"{name}/labels.json"))

    # List by artifact URI, not by run: for a run the client also queries logged models, which old servers lack.
    def _list_names(self, folder: str) -> list[str]:
        run = self._find_run()
        if run is None:
            return []
        found = mlflow.artifacts.list_artifacts(artifact_uri=f"{run.info.artifact_uri}/{folder}")
        return [file.path.rpartition("/")[2] for file in found]

    def _load(self, path: str) -> Any:
        return json.loads(mlflow.artifacts.load_text(f"{self._ensure_run().info.artifact_uri}/prompts/{path}"))

    def _write(self, path: str, content: dict[str, Any]) -> None:
        self._client.log_text(self._ensure_run().info.run_id, json.dumps(content, indent=1), f"prompts/{path}")

    def _find_run(self) -> Run | None:
        """Return the run that stores the prompts, the oldest if there are two; None before the first prompt."""
        if self._found is None:
            self._found = self._search_run()
        return self._found

    def _search_run(self) -> Run | None:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        found = self._client.search_runs(
            [experiment.experiment_id],
            f"tags.`fledge.kind` = '{KIND}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return next(iter(found), None)

    def _ensure_run(self) -> Run:
        while (run := self._find_run()) is None:
            with run_within(self._client, experiment_id(self._client, EXPERIMENT), KIND, {"fledge.kind": KIND}):
                pass
        return run
