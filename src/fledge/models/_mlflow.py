"""Releases in MLflow's model registry: which version a name means, and its folder on this machine."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fledge.core.errors import FledgeError, InputError
from fledge.models import manifest as manifests

DIGEST_TAG = "fledge.digest"


def find(client: MlflowClient, target: str) -> ModelVersion:
    """The version that `name`, `name@alias`, `name/3` or `models:/...` means; a bare name means its champion."""
    name = target.removeprefix("models:/")
    name, _, alias = name.partition("@")
    name, _, version = name.partition("/")
    try:
        if version:
            return client.get_model_version(name, version)
        return client.get_model_version_by_alias(name, alias or "champion")
    except MlflowException as error:
        raise InputError(
            f"no release {target!r}: {str(error).splitlines()[0]}",
            hint="fledge register, then fledge promote NAME VERSION",
        ) from None


def fetch(client: MlflowClient, version: ModelVersion, releases: Path) -> Path:
    """The folder of a release in fledge's own cache, checked; fetched from MLflow if it is missing or damaged there.

    Raises `FledgeError` if what MLflow has is not what was registered.
    """
    digest = version.tags.get(DIGEST_TAG, "")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise InputError(
            f"{version.name}/{version.version} was not registered by fledge, which cannot tell what is in it",
            hint="fledge register --model FOLDER",
        )
    kept = manifests.find_cached(releases, version.name, int(version.version), digest)
    if kept is not None:
        return kept
    with tempfile.TemporaryDirectory() as folder:
        source = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{version.name}/{version.version}", dst_path=folder, tracking_uri=client.tracking_uri
        )
        release = Path(source) / "artifacts" / "release"
        manifest = manifests.read_release(release)
        if manifest.digest != digest:
            raise FledgeError(
                f"{version.name}/{version.version}: its manifest is not the one that was registered; it is not loaded",
                hint="register the model again",
            )
        return manifests.cache_release(release, replace(manifest, version=int(version.version)), releases)
