"""Releases in MLflow's model registry: register, promote."""

import contextlib
import getpass
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from fledge.core.errors import FledgeError, InputError, RefusedError
from fledge.experiments._mlflow import load_arm, load_comparison
from fledge.models import manifest as manifests
from fledge.models._mlflow import DIGEST_TAG
from fledge.models.engine import GenerationParams
from fledge.models.manifest import Manifest
from fledge.models.snapshot import Snapshot
from fledge.prompts.prompt import Prompt
from fledge.prompts.template import variables
from fledge.tracking._mlflow import experiment_id

HISTORY_TAG = "fledge.history."
REQUIREMENTS = ("mlflow", "langchain-core", "transformers", "torch", "openvino-genai", "optimum-intel", "pandas")


@dataclass(frozen=True)
class Release:
    """A registered version."""

    name: str
    version: int
    model_uri: str
    digest: str


@dataclass(frozen=True)
class Move:
    """An alias that moved; `from_version` is None for its first version."""

    name: str
    alias: str
    from_version: int | None
    to_version: int

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "alias": self.alias, "from": self.from_version, "to": self.to_version}


def register_release(
    client: MlflowClient,
    name: str,
    snapshot: Snapshot,
    prompt: Prompt,
    generation: GenerationParams,
    *,
    experiment: str,
    evidence: dict[str, Any],
    state_dir: Path,
) -> Release:
    """A new version of `name`, or the one that already has the same content."""
    if not isinstance(prompt.template, str):
        raise InputError(
            f"prompt {prompt.label} is a conversation, which a release cannot have yet", hint="register a text prompt"
        )
    manifest = Manifest(
        name=name,
        model=snapshot.source,
        commit=snapshot.commit,
        model_digest=snapshot.digest,
        prompt_name=prompt.name,
        prompt_version=prompt.version,
        template=prompt.template,
        generation=_plain(generation),
        files={},
        evidence=evidence,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "release"
        manifest = manifests.write_release(folder, manifest, snapshot)
        existing = _with_digest(client, name, manifest.digest) or _log(client, manifest, folder, experiment, state_dir)
    return Release(name, int(existing.version), f"models:/{name}/{existing.version}", manifest.digest)


def promote_release(
    client: MlflowClient, version: ModelVersion, alias: str, *, evidence: str | None, force: bool, reason: str
) -> Move:
    """Move `alias` to `version`. Raises `RefusedError` unless the run `evidence` has this release's arm as winner.

    With `force` the reason is recorded instead of evidence.
    """
    if force:
        if not reason:
            raise InputError("a forced promotion needs a reason", hint='--force --reason "..."')
    else:
        reason = _proof(client, version, evidence)
    current = client.get_registered_model(version.name).aliases.get(alias)
    move = Move(version.name, alias, int(current) if current else None, int(version.version))
    entry = {
        "time": time.time(),
        "who": _user(),
        **move.as_dict(),
        "reason": reason,
        "evidence": evidence,
        "forced": force,
    }
    client.set_registered_model_alias(version.name, alias, version.version)
    client.set_registered_model_tag(version.name, f"{HISTORY_TAG}{time.time_ns()}", json.dumps(entry))
    return move


def history(client: MlflowClient, name: str) -> list[dict[str, Any]]:
    """Who moved which alias, when and why; newest first."""
    try:
        tags = client.get_registered_model(name).tags
    except MlflowException:
        raise InputError(f"no registered model {name!r}", hint="fledge register") from None
    keys = sorted((key for key in tags if key.startswith(HISTORY_TAG)), reverse=True)
    return [json.loads(tags[key]) for key in keys]


def _proof(client: MlflowClient, version: ModelVersion, evidence: str | None) -> str:
    """The reason that the evidence gives, or `RefusedError`."""
    where = f"{version.name}/{version.version}"
    hint = 'give --evidence RUN of a comparison that it won, or --force --reason "..."'
    if not evidence:
        raise RefusedError(f"{where} is not promoted: no evidence was given", hint=hint)
    try:
        comparison = load_comparison(client, evidence)
        if comparison["winner"] is None:
            raise RefusedError(f"{where} is not promoted: the comparison has no winner", hint=hint)
        won, tags = load_arm(client, evidence, comparison["winner"]), version.tags
    except InputError as error:
        raise RefusedError(f"{where} is not promoted: {error.message}", hint=error.hint) from None
    if won.model_digest != tags.get("fledge.model_digest"):
        raise RefusedError(f"{where} is not promoted: in run {evidence} another model won", hint=hint)
    uses = f"{tags.get('fledge.prompt_name')}/{tags.get('fledge.prompt_version')}"
    if won.prompt != uses:
        raise RefusedError(f"{where} is not promoted: prompt {won.prompt or 'none'} won, it uses {uses}", hint=hint)
    return f"better than {comparison['baseline']} on {comparison['metric']}"


def _log(client: MlflowClient, manifest: Manifest, folder: Path, experiment: str, state_dir: Path) -> ModelVersion:
    names = variables(manifest.template)
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, name) for name in names]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [
                ParamSpec("max_tokens", DataType.long, manifest.generation["max_tokens"]),
                ParamSpec("temperature", DataType.double, manifest.generation["temperature"]),
                ParamSpec("top_p", DataType.double, manifest.generation["top_p"]),
            ]
        ),
    )
    tags = {
        DIGEST_TAG: manifest.digest,
        "fledge.model_digest": manifest.model_digest,
        "fledge.prompt_name": manifest.prompt_name,
        "fledge.prompt_version": str(manifest.prompt_version),
    }
    run = client.create_run(
        experiment_id(client, experiment), run_name=f"register-{manifest.name}", tags={"fledge.kind": "release"}
    )
    status = "FAILED"
    try:
        with mlflow.start_run(run_id=run.info.run_id), _trial_load(state_dir):
            logged = mlflow.pyfunc.log_model(
                name="release",
                python_model=str(Path(__file__).with_name("wrapper.py")),
                artifacts={"release": str(folder)},
                signature=signature,
                input_example=pd.DataFrame([dict.fromkeys(names, "What is machine learning?")]),
                pip_requirements=_requirements(),
                metadata={"fledge": asdict(manifest)},
                prompts=[f"prompts:/{manifest.prompt_name}/{manifest.prompt_version}"],
            )
        if _missing(client, manifest.name):
            client.create_registered_model(manifest.name)
        version = client.create_model_version(
            manifest.name, logged.model_uri, run_id=run.info.run_id, tags=tags, model_id=logged.model_id
        )
        status = "FINISHED"
    except MlflowException as error:
        raise FledgeError(f"MLflow did not register {manifest.name}: {str(error).splitlines()[0]}") from None
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run.info.run_id, status)
    return version


@contextlib.contextmanager
def _trial_load(state_dir: Path) -> Iterator[None]:
    """MLflow loads a model with an input example once to try it: let it use our engine cache."""
    before = os.environ.get("FLEDGE_HOME")
    os.environ["FLEDGE_HOME"] = str(state_dir)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FLEDGE_HOME"]
        else:
            os.environ["FLEDGE_HOME"] = before


def _missing(client: MlflowClient, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return True
    return False


def _with_digest(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    found = client.search_model_versions(filter_string=f"tags.`{DIGEST_TAG}` = '{digest}'")
    return min((item for item in found if item.name == name), key=lambda item: int(item.version), default=None)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _plain(generation: GenerationParams) -> dict[str, Any]:
    values = asdict(generation)
    return {**values, "stop": list(generation.stop)}


def _requirements() -> list[str]:
    installed = {name.lower().replace("_", "-") for dist in metadata.distributions() if (name := dist.metadata["Name"])}
    return [f"{name}=={metadata.version(name)}" for name in REQUIREMENTS if name in installed]
