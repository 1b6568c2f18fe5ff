"""Releases in MLflow's model registry: resolve a name to a version, and fetch its folder."""

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from fledge.core.errors import DamagedError, FledgeError, InputError
from fledge.core.interrupts import scratch_folder
from fledge.releases import manifest as manifests
from fledge.releases import release_cache
from fledge.releases.manifest import Manifest
from fledge.tracking._mlflow_connection import unreachable

log = logging.getLogger(__name__)

DIGEST_TAG = "fledge.digest"
SEAL_TAG = "fledge.seal"
PROMPT_TAG = "fledge.prompt"
MODEL_TAG = "fledge.model_digest"
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
PLACE = "artifacts/release"  # the release's folder in its MLflow model


def find(client: MlflowClient, target: str) -> ModelVersion:
    """Return the version for `name`, `name@alias`, `name/3` or `models:/...`; a bare name means the champion.

    Raises `InputError` if it does not exist, `FledgeError` if the tracking server cannot be reached.
    """
    name = target.removeprefix("models:/")
    name, _, alias = name.partition("@")
    name, _, version = name.partition("/")
    try:
        if version:
            return client.get_model_version(name, version)
        return client.get_model_version_by_alias(name, alias or "champion")
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise unreachable(str(client.tracking_uri), error) from None
        raise InputError(
            f"no release {target!r}: {str(error).splitlines()[0]}",
            hint="fledge register, then fledge promote NAME VERSION",
        ) from None


def fetch(client: MlflowClient, version: ModelVersion, releases: Path, known: Mapping[str, Path] | None = None) -> Path:
    """Return the folder of a release in fledge's cache, fetching it from MLflow if it is missing or damaged.

    `known` maps SHA-256 to local files that can be linked. Raises `FledgeError` if the files in MLflow differ from the
    registered ones.
    """
    digest, seal = _read_digests(version)
    number = int(version.version)
    cached = release_cache.find_cached(releases, version.name, number, digest, seal)
    if cached is not None:
        log.debug("release %s/%d is cached in %s", version.name, number, cached)
        return cached
    log.debug("fetching release %s/%d from MLflow", version.name, number)
    with open_stored(client, version) as (release, manifest):
        in_store = release == stored_folder(client, version)
        numbered = replace(manifest, version=number)
        return release_cache.cache_release(release, numbered, releases, known or {}, in_store=in_store)


def _read_digests(version: ModelVersion) -> tuple[str, str]:
    """Return the digests of a release and of its manifest. Raises `InputError` for a version without them."""
    digest, seal = (version.tags.get(tag, "") for tag in (DIGEST_TAG, SEAL_TAG))
    if not all(re.fullmatch("[0-9a-f]{64}", tag) for tag in (digest, seal)):
        raise InputError(
            f"{version.name}/{version.version} was not registered with fledge, so its contents cannot be verified",
            hint="fledge register --model FOLDER",
        )
    return digest, seal


@contextlib.contextmanager
def open_stored(client: MlflowClient, version: ModelVersion) -> Iterator[tuple[Path, Manifest]]:
    """Yield a version's checked release folder from MLflow, and its manifest.

    Raises `FledgeError` if it differs from the registered one.
    """
    where = f"{version.name}/{version.version}"
    _, seal = _read_digests(version)
    with scratch_folder() as folder:
        release = stored_folder(client, version) or _download(client, where, folder)
        manifest = manifests.read_release(release)
        if manifest.seal != seal:
            raise DamagedError(
                f"{where}: {manifests.MANIFEST} differs from the registered one; the release is not loaded",
                hint=manifests.REGISTER_AGAIN,
            )
        yield release, manifest


def _download(client: MlflowClient, where: str, folder: Path) -> Path:
    try:
        source = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{where}", dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    except (MlflowException, OSError) as error:
        raise FledgeError(
            f"{where}: its files in MLflow cannot be read: {str(error).splitlines()[-1]}",
            hint=f"try again; if MLflow has lost them, {manifests.REGISTER_AGAIN}",
        ) from None
    return Path(source) / PLACE


def stored_folder(client: MlflowClient, version: ModelVersion) -> Path | None:
    """Return the folder of a release in a local artifact store, None for other stores."""
    model_id = version.source.removeprefix("models:/")
    try:
        folder = local_folder(client.get_logged_model(model_id).artifact_location) if "/" not in model_id else None
    except MlflowException:
        return None
    return folder / PLACE if folder and (folder / PLACE).is_dir() else None


def local_folder(location: str) -> Path | None:
    """Return the local folder of an artifact location, None for a server or a cloud."""
    store = get_artifact_repository(location)
    return Path(store.artifact_dir) if isinstance(store, LocalArtifactRepository) else None
