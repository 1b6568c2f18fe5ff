"""Releases kept on this machine, and the last known good one under each alias: from there an endpoint starts, also when
no tracking server answers."""

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
from fledge.releases.manifest import MANIFEST, SIGNATURE, Manifest, load_manifest, read_kept
from fledge.releases.shared_files import files_of_releases, lay_out

FILE = "aliases.json"


class ReleaseRef(NamedTuple):
    """A release as a user names it; a bare name means its champion. One of `alias` and `version` is set."""

    name: str
    alias: str
    version: str

    @property
    def text(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.version}"


def parse(target: str) -> ReleaseRef:
    """`name`, `name@alias`, `name/3`, with or without `models:/` before it."""
    name, _, alias = target.removeprefix("models:/").partition("@")
    name, _, version = name.partition("/")
    return ReleaseRef(name, alias or ("" if version else "champion"), version)


def remember(releases: Path, tracking_uri: str, reference: ReleaseRef, folder: Path) -> None:
    """Note which folder of `releases` an alias, or a version, of a tracking store means."""
    known = _read(releases)
    known[_key(tracking_uri, reference)] = folder.name
    state.write_json(state.ensure(releases) / FILE, known)


def recall(releases: Path, tracking_uri: str, reference: ReleaseRef) -> Path | None:
    """The folder that was noted, if it is still there. Its files are checked by who loads them."""
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
    """The folder of a release that `cache_release` kept, if it is whole; a damaged one is removed."""
    folder = _folder(releases, name, version, digest)
    if not folder.is_dir():
        return None
    try:
        if read_kept(folder).seal == seal:
            return folder
    except FledgeError:
        pass
    shutil.rmtree(folder)
    return None


def cache_release(
    source: Path, manifest: Manifest, releases: Path, known: Mapping[str, Path], *, in_store: bool
) -> Path:
    """Keep a release under `releases`; returns its folder. An endpoint starts from there.

    Its files are links to those of the store, where `source` is in one on this machine, to `known` files and those of
    other releases with the same content, by their SHA-256, where the file system can; else copies.
    """
    target = _folder(state.ensure(releases), manifest.name, manifest.version, manifest.digest)
    known = {} if in_store else {**known, **files_of_releases(releases.glob("*"), manifest.model_digest)}
    try:
        with tempfile.TemporaryDirectory(dir=releases, prefix=f".{target.name}.", ignore_cleanup_errors=True) as folder:
            working = Path(folder) / target.name
            lay_out(manifest, source, state.ensure(working), known, linked="")
            if (source / SIGNATURE).is_file():
                shutil.copyfile(source / SIGNATURE, working / SIGNATURE)
            state.write_json(working / MANIFEST, asdict(manifest))
            if not target.is_dir():  # else another process was faster with the same content
                os.rename(working, target)
    except OSError as error:
        if not target.is_dir():
            reason = error.strerror or "not all of it could be copied"
            raise FledgeError(f"cannot cache the release in {releases}: {reason}", hint="free some space") from None
    return target


def _folder(releases: Path, name: str, version: int, digest: str) -> Path:
    return releases / f"{name}-{version}-{digest[:12]}".replace("/", "_")


def _key(tracking_uri: str, reference: ReleaseRef) -> str:
    # The store's address may hold a password.
    store = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
    return f"{store}:{reference.text}"


def _read(releases: Path) -> dict[str, str]:
    try:
        content = json.loads((releases / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str) and "/" not in value}
