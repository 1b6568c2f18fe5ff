"""Cache of releases, and the last known good release of each alias, so that an endpoint can start without a tracking
server."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.releases.manifest import MANIFEST, SIGNATURE, Manifest, load_manifest, read_cached
from fledge.releases.shared_files import files_of_releases, place_files

FILE = "aliases.json"


class ReleaseRef(NamedTuple):
    """A user's reference to a release, with either `alias` or `version`; a bare name means the champion."""

    name: str
    alias: str
    version: str

    @property
    def text(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.version}"


def parse(target: str) -> ReleaseRef:
    """Parse `name`, `name@alias` or `name/3`, with an optional prefix `models:/`."""
    name, _, alias = target.removeprefix("models:/").partition("@")
    name, _, version = name.partition("/")
    return ReleaseRef(name, alias or ("" if version else "champion"), version)


def remember(releases: Path, tracking_uri: str, reference: ReleaseRef, folder: Path) -> None:
    """Record the folder in `releases` for an alias or a version of a tracking store."""
    known = _read(releases)
    known[_key(tracking_uri, reference)] = folder.name
    state.write_json(state.ensure(releases) / FILE, known)


def recall(releases: Path, tracking_uri: str, reference: ReleaseRef) -> Path | None:
    """Return the recorded folder, None if it is gone. Does not check its files."""
    name = _read(releases).get(_key(tracking_uri, reference))
    folder = releases / name if name else None
    if folder is None or not (folder / MANIFEST).is_file():
        return None
    try:
        load_manifest(folder)
    except FledgeError:
        return None
    return folder


def find_cached(releases: Path, name: str, version: int, digest: str, seal: str) -> Path | None:
    """Return the folder of a cached release, None if it is missing or damaged; a damaged one is removed."""
    folder = _folder(releases, name, version, digest)
    if not folder.is_dir():
        return None
    try:
        if read_cached(folder).seal == seal:
            return folder
    except FledgeError:
        pass
    shutil.rmtree(folder)
    return None


def cache_release(
    source: Path, manifest: Manifest, releases: Path, known: Mapping[str, Path], *, in_store: bool
) -> Path:
    """Cache a release in `releases` and return its folder.

    Where the file system allows it, files are hard links: to a local store, to `known` files by SHA-256, or to other
    releases. Otherwise they are copies.
    """
    target = _folder(state.ensure(releases), manifest.name, manifest.version, manifest.digest)
    known = {} if in_store else {**known, **files_of_releases(releases.glob("*"), manifest.model_digest)}
    try:
        with tempfile.TemporaryDirectory(dir=releases, prefix=f".{target.name}.", ignore_cleanup_errors=True) as folder:
            working = Path(folder) / target.name
            place_files(manifest, source, state.ensure(working), known, linked="")
            if (source / SIGNATURE).is_file():
                shutil.copyfile(source / SIGNATURE, working / SIGNATURE)
            state.write_json(working / MANIFEST, asdict(manifest))
            if not target.is_dir():  # otherwise another process has cached the same content
                os.rename(working, target)
    except OSError as error:
        if not target.is_dir():
            reason = error.strerror or "not all files could be copied"
            raise FledgeError(f"cannot cache the release in {releases}: {reason}", hint="free some space") from None
    return target


def _folder(releases: Path, name: str, version: int, digest: str) -> Path:
    return releases / f"{name}-{version}-{digest[:12]}".replace("/", "_")


def _key(tracking_uri: str, reference: ReleaseRef) -> str:
    # The store's URI may contain a password.
    store = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
    return f"{store}:{reference.text}"


def _read(releases: Path) -> dict[str, str]:
    try:
        content = json.loads((releases / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str) and "/" not in value}
