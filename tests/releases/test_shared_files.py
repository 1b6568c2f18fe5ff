"""Files that releases share: one content on disk, whoever has it, and each release whole without the others."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.core.digests import file_digest
from fledge.core.links import link_or_copy
from fledge.releases.manifest import Manifest, read_release
from fledge.releases.release_cache import cache_release
from fledge.releases.shared_files import files_of_exports, files_of_releases, lay_out

FILES = {"snapshot/model.safetensors": "weights", "snapshot/config.json": "{}", "engines/exact/model.bin": "engine"}


def _release(folder: Path, version: int = 1, **changes: str) -> tuple[Path, Manifest]:
    """A release as it comes from a server, with other content in some files."""
    source = folder / f"download-{version}"
    for name, content in {**FILES, **changes}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content)
    digests = {name: file_digest(source / name) for name in {**FILES, **changes}}
    manifest = Manifest("mine", "model", "", "m" * 64, f"prompt-{version}", 1, "{{question}}", {}, files=digests)
    return source, replace(manifest, version=version)


def _same(a: Path, b: Path) -> bool:
    return a.stat().st_ino == b.stat().st_ino


def test_releases_from_a_server_share_what_they_have_in_common(tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    kept = []
    for version, config in ((1, "{}"), (2, '{"a": 1}')):
        source, manifest = _release(tmp_path, version, **{"snapshot/config.json": config})
        kept.append(cache_release(source, manifest, releases, {}, in_store=False))
        shutil.rmtree(source)
    first, second = kept
    assert _same(first / "snapshot/model.safetensors", second / "snapshot/model.safetensors")
    assert not _same(first / "snapshot/config.json", second / "snapshot/config.json")
    shutil.rmtree(first)
    assert read_release(second).version == 2


def test_a_damaged_file_is_not_shared(tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    source, manifest = _release(tmp_path, 1)
    first = cache_release(source, manifest, releases, {}, in_store=False)
    (first / "snapshot/model.safetensors").unlink()
    (first / "snapshot/model.safetensors").write_text("wEights")
    source, manifest = _release(tmp_path, 2)
    second = cache_release(source, manifest, releases, {}, in_store=False)
    assert read_release(second).version == 2


def test_engines_are_shared_with_those_that_were_exported(tmp_path: Path) -> None:
    exported = tmp_path / "engines" / "abc-exact"
    exported.mkdir(parents=True)
    (exported / "model.bin").write_text("engine")
    (exported / "files.json").write_text(json.dumps({"model.bin": file_digest(exported / "model.bin")}))
    source, manifest = _release(tmp_path)
    known = files_of_exports([exported, tmp_path / "none"])
    kept = cache_release(source, manifest, tmp_path / "releases", known, in_store=False)
    assert _same(kept / "engines/exact/model.bin", exported / "model.bin")
    assert files_of_releases([kept, tmp_path], "m" * 64).keys() == set(manifest.files.values())
    assert files_of_releases([kept], "another") == {}


def test_a_users_own_files_are_copied(tmp_path: Path) -> None:
    source, manifest = _release(tmp_path)
    lay_out(manifest, source, tmp_path / "store", {}, linked="engines/")
    assert not _same(source / "snapshot/model.safetensors", tmp_path / "store/snapshot/model.safetensors")
    assert _same(source / "engines/exact/model.bin", tmp_path / "store/engines/exact/model.bin")


def test_where_there_are_no_links_there_are_copies(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")  # noqa: S108 (another file system than that of most temporary folders)
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    (tmp_path / "file").write_text("content")
    target = elsewhere / f"fledge-{tmp_path.name}"
    try:
        link_or_copy(tmp_path / "file", target)
        assert target.read_text() == "content"
    finally:
        target.unlink()
