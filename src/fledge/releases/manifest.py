"""A release on disk: a folder with the snapshot's files, exported engines, and `release.json` with the digests of all
files."""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fledge.core import state
from fledge.core.digests import KnownDigests, file_digest
from fledge.core.errors import DamagedError
from fledge.core.links import link_or_copy
from fledge.core.types import Format, Message
from fledge.models import snapshot as snapshots
from fledge.models.snapshot import Snapshot

MANIFEST = "release.json"
SIGNATURE = "release.sig"
FILES = "snapshot"
ENGINES = "engines"

REGISTER_AGAIN = "roll back, or delete that version in MLflow and register it again"

Weights = Literal["copy", "reference"]


@dataclass(frozen=True)
class Manifest:
    """Content of a release. `files` maps paths in the folder to SHA-256.

    `weights` says whether the model's files are in the release or referenced by Hub id and commit. `engines` maps modes
    of exported engines to the measurements of their gates, `evaluation` has the results of the release's arm,
    `environment` describes the machine that registered it. `version` is 0 until registered. `format` says how the
    template becomes a prompt, by default as its type implies; `system` is the system message of a text template asked
    as chat.
    """

    name: str
    model: str
    commit: str
    model_digest: str
    prompt_name: str
    prompt_version: int
    template: str | tuple[Message, ...]
    generation: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    weights: Weights = "copy"
    licence: str = ""
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    version: int = 0
    format: Format | None = None
    system: str = ""

    def __post_init__(self) -> None:
        if self.format is None:
            object.__setattr__(self, "format", implied_format(self.template))

    @property
    def prompt_label(self) -> str:
        return f"{self.prompt_name}/{self.prompt_version}"

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines the answers; releases with the same name and digest are equal."""
        names = {"name", "model_digest", "prompt_name", "prompt_version", "template", "generation", "weights"}
        names |= {"format", "system"}
        return _digest({name: value for name, value in self._content().items() if name in names})

    @property
    def seal(self) -> str:
        """SHA-256 of the whole manifest, including the digests of all files, except the version number."""
        return _digest({name: value for name, value in self._content().items() if name != "version"})

    def _content(self) -> dict[str, Any]:
        """Return plain values, without newer fields that have their defaults, so that old digests stay valid."""
        content = asdict(self)
        implied = {"format": implied_format(self.template), "system": ""}
        return {name: value for name, value in content.items() if name not in implied or value != implied[name]}


def write_release(folder: Path, manifest: Manifest, snapshot: Snapshot, exports: Mapping[str, Path]) -> Manifest:
    """Write a release to `folder` and return its complete manifest.

    Hard-links, or else copies, the snapshot's files, unless they are only referenced, and the engines' folders, or
    single files, in `exports` by mode.
    """
    found = {
        f"{ENGINES}/{mode}/{path.name}": path
        for mode, made in exports.items()
        for path in (sorted(made.iterdir()) if made.is_dir() else [made])
    }
    if manifest.weights == "copy":
        found |= {f"{FILES}/{name}": snapshot.path / name for name in snapshot.files}
    for name, path in found.items():
        link_or_copy(path.resolve(), folder / name)
    complete = replace(manifest, files={name: file_digest(path) for name, path in found.items()})
    state.write_json(state.ensure(folder) / MANIFEST, asdict(complete))
    return complete


def load_manifest(folder: Path) -> Manifest:
    """Return the manifest of a release folder. Raises `FledgeError` if it cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(content["template"], str):
            content["template"] = tuple(Message(**turn) for turn in content["template"])
        return Manifest(**content)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DamagedError(f"{folder}: no readable {MANIFEST}: {error}", hint=REGISTER_AGAIN) from None


def read_release(folder: Path, digest: Callable[[Path], str] = file_digest) -> Manifest:
    """Check every file's `digest` against the manifest of a release folder, and return the manifest.

    Raises `FledgeError` with the files that are missing, changed or not listed.
    """
    manifest = load_manifest(folder)
    own = (MANIFEST, SIGNATURE)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {*own}
    with ThreadPoolExecutor(2) as pool:  # reading and hashing both release the GIL
        here = [path for path in manifest.files if path in present and (folder / path).is_file()]
        digests = dict(zip(here, pool.map(lambda path: digest(folder / path), here), strict=True))
    problems = []
    for path in sorted(manifest.files.keys() | present):
        if path not in present:
            problems.append(f"{path} is missing")
        elif path not in manifest.files:
            problems.append(f"{path} is not in the manifest")
        elif digests.get(path) != manifest.files[path]:
            problems.append(f"{path} was changed")
    if problems:
        where = f"{manifest.name}/{manifest.version}" if manifest.version else manifest.name
        raise DamagedError(
            f"release {where}: {'; '.join(problems)}; it is not loaded",
            hint=REGISTER_AGAIN,
        )
    return manifest


def read_cached(folder: Path) -> Manifest:
    """Check a release folder in the cache like `read_release`, but read only new and changed files."""
    known = KnownDigests(folder.with_name(f".{folder.name}.digests.json"))
    try:
        return read_release(folder, known.digest)
    finally:
        known.save()


def snapshot_of(folder: Path, manifest: Manifest) -> Snapshot:
    """Return the snapshot of a checked release: its own copy, or the Hub's commit if it is only referenced.

    Raises `FledgeError` if the Hub's files differ from the registered ones.
    """
    if manifest.weights == "copy":
        known = {name.removeprefix(f"{FILES}/"): digest for name, digest in manifest.files.items()}
        return snapshots.check(folder / FILES, source=manifest.model, commit=manifest.commit, digests=known)
    found = snapshots.resolve(f"{manifest.model.partition('@')[0]}@{manifest.commit}")
    if found.digest != manifest.model_digest:
        raise DamagedError(
            f"release {manifest.name}: the files of {manifest.model} differ from the registered ones; it is not loaded",
            hint=f"remove the model from the Hub's cache; or {REGISTER_AGAIN}",
        )
    return found


def read_context(folder: Path, manifest: Manifest) -> int | None:
    """Return the context window of a checked release, in tokens; None if its files are only referenced."""
    return snapshots.context_of(folder / FILES) if manifest.weights == "copy" else None


def find_release_export(snapshot: Path, mode: str) -> Path | None:
    """Return the exported engine in the release of a snapshot's folder, None if there is none."""
    folder = snapshot.parent / ENGINES / mode
    return folder if (snapshot.parent / MANIFEST).is_file() and folder.is_dir() else None


def implied_format(template: str | tuple[Message, ...]) -> Format:
    """Return the format of a prompt without one, by the type of its template."""
    return "completion" if isinstance(template, str) else "chat"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
