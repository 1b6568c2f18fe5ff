"""A release on disk: a folder with the snapshot's files and `release.json`, which names and digests all of it."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.models.snapshot import Snapshot

MANIFEST = "release.json"
FILES = "snapshot"


@dataclass(frozen=True)
class Manifest:
    """What a release consists of; `files` maps a path in the folder to its SHA-256. `version` is 0 until registered."""

    name: str
    model: str
    commit: str
    model_digest: str
    prompt_name: str
    prompt_version: int
    template: str
    generation: dict[str, Any]
    files: dict[str, str]
    version: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what the release answers."""
        content = asdict(self)
        del content["version"], content["evidence"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_release(folder: Path, manifest: Manifest, snapshot: Snapshot) -> Manifest:
    """Copy the snapshot's files to `folder/snapshot`, write the manifest beside them, and return it complete."""
    target = state.ensure(folder / FILES)
    digests = {}
    for name in snapshot.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(snapshot.path / name, target / name)
        digests[f"{FILES}/{name}"] = _sha256(target / name)
    complete = replace(manifest, files=digests)
    state.write_json(folder / MANIFEST, asdict(complete))
    return complete


def read_release(folder: Path) -> Manifest:
    """The manifest of a release folder, after checking every file against it.

    Raises `FledgeError` that names the first file that is missing, changed or not listed.
    """
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FledgeError(f"{folder}: no readable {MANIFEST}: {error}", hint="fledge register") from None
    present = {path.relative_to(folder).as_posix() for path in (folder / FILES).rglob("*") if path.is_file()}
    for path in sorted(manifest.files.keys() | present):
        if path not in present:
            problem = "is missing"
        elif path not in manifest.files:
            problem = "is not in the manifest"
        elif _sha256(folder / path) != manifest.files[path]:
            problem = "was changed"
        else:
            continue
        raise FledgeError(
            f"release {manifest.name}: {path} {problem}; it is not loaded", hint="register the model again"
        )
    return manifest


def find_cached(releases: Path, name: str, version: int, digest: str) -> Path | None:
    """The folder of a release that `cache_release` kept, if it is whole; a damaged one is removed."""
    folder = _cache_folder(releases, name, version, digest)
    if not folder.is_dir():
        return None
    try:
        if read_release(folder).digest == digest:
            return folder
    except FledgeError:
        pass
    shutil.rmtree(folder)
    return None


def cache_release(source: Path, manifest: Manifest, releases: Path) -> Path:
    """Keep a copy of a release under `releases`; returns its folder. An endpoint starts from there."""
    target = _cache_folder(state.ensure(releases), manifest.name, manifest.version, manifest.digest)
    working = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(working, ignore_errors=True)
    shutil.copytree(source, working)
    state.write_json(working / MANIFEST, asdict(manifest))
    try:
        os.rename(working, target)
    except OSError:
        shutil.rmtree(working)
        if not target.is_dir():  # else another process was faster with the same content
            raise
    return target


def _cache_folder(releases: Path, name: str, version: int, digest: str) -> Path:
    return releases / f"{name}-{version}-{digest[:12]}".replace("/", "_")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
