"""Registering a release in MLflow's model registry."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import get_type_hints

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.generation import REQUEST_ONLY, GenerationParams
from fledge.core.interrupts import scratch_folder, shield_from_interrupts
from fledge.models.snapshot import Snapshot
from fledge.prompts.prompt import Prompt
from fledge.registry import package
from fledge.registry._mlflow_versions import add_version
from fledge.registry.columns import BARE, MESSAGES
from fledge.registry.registered import Release
from fledge.registry.signing import sign
from fledge.releases import manifest as manifests
from fledge.releases._mlflow_releases import (
    DIGEST_TAG,
    MODEL_TAG,
    PLACE,
    PROMPT_TAG,
    SEAL_TAG,
    local_folder,
    stored_folder,
)
from fledge.releases.manifest import Manifest
from fledge.releases.shared_files import files_of_releases, place_files
from fledge.tracking._mlflow_connection import experiment_id, run_within

PARAM_TYPES = {int: DataType.long, float: DataType.double, list: DataType.string}
EXAMPLE = "What is machine learning?"
MOST_SHARING = 20  # latest releases of a model that are searched for identical files


def find_release(client: MlflowClient, manifest: Manifest) -> Release | None:
    """Return the version with the same content, None if there is none."""
    found = _find_by_digest(client, manifest)
    return None if found is None else _to_release(manifest, found, new=False)


def register_release(
    client: MlflowClient,
    manifest: Manifest,
    snapshot: Snapshot,
    prompt: Prompt,
    engines: Mapping[str, Path],
    *,
    experiment: str,
    key: Path | None,
) -> Release:
    """Register a new version, signed with the private key `key` if given, and return it."""
    with scratch_folder() as scratch:
        folder = scratch / "release"
        manifest = manifests.write_release(folder, manifest, snapshot, engines)
        if key is not None:
            sign(folder, key)
        made = _log_version(client, manifest, folder, package.copy_code(scratch), prompt, experiment)
    return _to_release(manifest, made, new=True)


def _to_release(manifest: Manifest, version: ModelVersion, *, new: bool) -> Release:
    number = int(version.version)
    return Release(manifest.name, number, f"models:/{manifest.name}/{number}", manifest.digest, new)


def _log_version(
    client: MlflowClient, manifest: Manifest, folder: Path, code: Path, prompt: Prompt, experiment: str
) -> ModelVersion:
    name, tags = f"register-{manifest.name}", {"fledge.kind": "release"}
    with run_within(client, experiment_id(client, experiment), name, tags) as run:
        version: ModelVersion | None = None
        try:
            logged = client.create_logged_model(
                run.experiment_id, name="release", source_run_id=run.run_id, model_type="fledge-release"
            )
            model_id, store = logged.model_id, local_folder(logged.artifact_location)
            client.log_outputs(run.run_id, [LoggedModelOutput(model_id, step=0)])
            # Not log_model, which would load and query the model, and only warn if that fails.
            model = Model(run_id=run.run_id, model_id=model_id, model_uuid=model_id, prompts=[prompt.uri])
            mlflow.pyfunc.save_model(
                folder.parent / "model",
                mlflow_model=model,
                python_model=str(Path(__file__).with_name("wrapper.py")),
                artifacts={"release": str(_copy_manifest(folder) if store else folder)},
                code_paths=[str(code)],
                signature=_build_signature(manifest, prompt),
                input_example=pd.DataFrame([dict.fromkeys(prompt.variables, EXAMPLE)]),
                pip_requirements=package.list_requirements(manifest),
                metadata={"fledge": json.loads(json.dumps(asdict(manifest)))},
            )
            if store:
                model.model_size_bytes += sum((folder / name).stat().st_size for name in manifest.files)
                model.save(folder.parent / "model" / "MLmodel")
            client.log_model_artifacts(model_id, str(folder.parent / "model"))
            if store:
                known = _known_files(client, manifest)
                place_files(manifest, folder, store / PLACE, known, linked=f"{manifests.ENGINES}/")
            client.finalize_logged_model(model_id, LoggedModelStatus.READY)
            # The version object, not its URI, which MLflow looks up in the experiment set in the environment.
            client.link_prompt_version_to_run(run.run_id, client.get_prompt_version(prompt.name, str(prompt.version)))
            client.link_prompt_version_to_model(prompt.name, str(prompt.version), model_id)
            with shield_from_interrupts():  # from here on the release exists
                version = add_version(
                    client,
                    manifest.name,
                    f"models:/{model_id}",
                    run_id=run.run_id,
                    tags=_version_tags(manifest),
                    model_id=model_id,
                )
        except (MlflowException, OSError) as error:
            raise FledgeError(
                f"MLflow did not register {manifest.name}: {str(error).splitlines()[0]}",
                hint="nothing was stored; fix the cause, then register again",
            ) from None
        finally:
            if version is None:
                with shield_from_interrupts(), contextlib.suppress(MlflowException):  # the store may be what failed
                    _delete_models(client, run.experiment_id, run.run_id)
    return _drop_duplicate(client, manifest, version)


def _copy_manifest(folder: Path) -> Path:
    """Copy only the manifest and the signature of a release's folder and return the copy."""
    copy = state.ensure(folder.parent / "manifest" / folder.name)
    for name in (manifests.MANIFEST, manifests.SIGNATURE):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, copy / name)
    return copy


def _known_files(client: MlflowClient, manifest: Manifest) -> dict[str, Path]:
    """Return files of the latest releases of the model in a store on this machine, by SHA-256."""
    found = client.search_model_versions(
        f"tags.`{MODEL_TAG}` = '{manifest.model_digest}'",
        max_results=MOST_SHARING,
        order_by=["last_updated_timestamp DESC"],
    )
    folders = [folder for version in found if (folder := stored_folder(client, version))]
    return files_of_releases(folders, manifest.model_digest)


def _version_tags(manifest: Manifest) -> dict[str, str]:
    return {
        DIGEST_TAG: manifest.digest,
        SEAL_TAG: manifest.seal,
        "fledge.model": manifest.model,
        MODEL_TAG: manifest.model_digest,
        PROMPT_TAG: manifest.prompt_label,
        "fledge.licence": manifest.licence or "unknown",
    }


def _drop_duplicate(client: MlflowClient, manifest: Manifest, version: ModelVersion) -> ModelVersion:
    """Return the first version with this content, and delete `version` if it is a later one.

    Both may come from the same run: the client repeats a request whose response was lost.
    """
    first = _find_by_digest(client, manifest)
    if first is None or int(first.version) == int(version.version):
        return version
    client.delete_model_version(manifest.name, version.version)
    if first.run_id != version.run_id:
        _delete_models(client, client.get_run(version.run_id).info.experiment_id, version.run_id)
    return first


def _build_signature(manifest: Manifest, prompt: Prompt) -> ModelSignature:
    """Return a signature of optional columns: a row holds the prompt's variables, a single text, or messages."""
    kinds = get_type_hints(GenerationParams)
    asked = {
        name: float(value) if kinds[name] is float else value
        for name, value in manifest.generation.items()
        if name not in REQUEST_ONLY
    }
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, name, required=False) for name in (BARE, *prompt.variables, MESSAGES)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [
                ParamSpec(name, PARAM_TYPES[type(value)], value, shape=(-1,) if isinstance(value, list) else None)
                for name, value in asked.items()
            ]
        ),
    )


def _delete_models(client: MlflowClient, experiment: str, run_id: str) -> None:
    """Delete the models and files that a run stored for a version that was not kept."""
    for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'"):
        with contextlib.suppress(MlflowException, OSError, NotImplementedError):  # `mlflow gc` removes what is left
            get_artifact_repository(model.artifact_location).delete_artifacts()
        client.delete_logged_model(model.model_id)


def _find_by_digest(client: MlflowClient, manifest: Manifest) -> ModelVersion | None:
    found = client.search_model_versions(filter_string=f"tags.`{DIGEST_TAG}` = '{manifest.digest}'")
    return min((item for item in found if item.name == manifest.name), key=lambda item: int(item.version), default=None)
