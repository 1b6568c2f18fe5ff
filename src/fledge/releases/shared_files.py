"""Store files that several releases share once, as hard links. Files are never changed in place: new content gets a new
file, and damaged files are removed."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from fledge.core.digests import file_digest
from fledge.core.errors import DamagedError
from fledge.core.links import link_or_copy
from fledge.releases.manifest import Manifest, load_manifest


def lay_out(manifest: Manifest, source: Path, target: Path, known: Mapping[str, Path], linked: str) -> None:
    """Put the files of a release from `source` into `target`.

    A file is linked to the same content in `known` (by SHA-256), else to the source if its path starts with `linked`,
    else copied.
    """
    for name, digest in manifest.files.items():
        same = known.get(digest)
        if same is not None and _has_digest(same, digest):
            link_or_copy(same, target / name)
        elif name.startswith(linked):
            link_or_copy(source / name, target / name)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def files_of_releases(folders: Iterable[Path], model_digest: str) -> dict[str, Path]:
    """Return the files of a model's releases by SHA-256, from the manifests, without reading the files."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            manifest = load_manifest(folder)
        except DamagedError:
            continue
        if manifest.model_digest == model_digest:
            found |= {digest: folder / name for name, digest in manifest.files.items()}
    return found


def files_of_exports(folders: Iterable[Path]) -> dict[str, Path]:
    """Return the files of exported engines by SHA-256, from `files.json`, without reading the files."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            content = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found |= {digest: folder / name for name, digest in content.items()}
    return found


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and file_digest(path) == digest
    except OSError:
        return False
