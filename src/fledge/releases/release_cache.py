"""The last known good release under each alias: from there an endpoint starts, also when no tracking server answers."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.releases.manifest import MANIFEST, load_manifest

FILE = "aliases.json"


class Reference(NamedTuple):
    """A release as a user names it; a bare name means its champion. One of `alias` and `version` is set."""

    name: str
    alias: str
    version: str

    @property
    def text(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.version}"


def parse(target: str) -> Reference:
    """`name`, `name@alias`, `name/3`, with or without `models:/` before it."""
    name, _, alias = target.removeprefix("models:/").partition("@")
    name, _, version = name.partition("/")
    return Reference(name, alias or ("" if version else "champion"), version)


def remember(releases: Path, tracking_uri: str, reference: Reference, folder: Path) -> None:
    """Note which folder of `releases` an alias, or a version, of a tracking store means."""
    known = _read(releases)
    known[_key(tracking_uri, reference)] = folder.name
    state.write_json(state.ensure(releases) / FILE, known)


def recall(releases: Path, tracking_uri: str, reference: Reference) -> Path | None:
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


def _key(tracking_uri: str, reference: Reference) -> str:
    # The store's address may hold a password.
    store = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
    return f"{store}:{reference.text}"


def _read(releases: Path) -> dict[str, str]:
    try:
        content = json.loads((releases / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str) and "/" not in value}
