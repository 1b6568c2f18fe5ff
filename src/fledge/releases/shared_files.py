"""Files that several releases have are kept once, under several names (hard links). Nobody changes one in place: a file
is written under a new name, and what is damaged is removed."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from fledge.core.digests import file_digest
from fledge.core.errors import DamagedError
from fledge.releases.manifest import Manifest, load_manifest


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system cannot, or where others may change it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_uid == os.getuid() and not source.is_symlink():
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    shutil.copyfile(source, target)


def lay_out(manifest: Manifest, source: Path, target: Path, known: Mapping[str, Path], linked: str) -> None:
    """Put the files of a release that lie in `source` into `target`: where `known` has the same content, by its
    SHA-256, as a link to that, else as a link to the source where its name begins with `linked`, else as a copy."""
    for name, digest in manifest.files.items():
        same = known.get(digest)
        if same is not None and _has(same, digest):
            link_or_copy(same, target / name)
        elif name.startswith(linked):
            link_or_copy(source / name, target / name)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def files_of_releases(folders: Iterable[Path], model_digest: str) -> dict[str, Path]:
    """The files in folders of releases of one model, by their SHA-256 as the manifests have it; none is read."""
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
    """The files in folders of exported engines, by their SHA-256 as `files.json` has it; none is read."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            content = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found |= {digest: folder / name for name, digest in content.items()}
    return found


def _has(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and file_digest(path) == digest
    except OSError:
        return False
