"""Exported models: what was damaged on disk is neither run nor released."""

import os
import shutil
from pathlib import Path

import pytest

from fledge.core.atomic_folder import is_whole
from fledge.engines.openvino_files import exported
from fledge.models import snapshot
from fledge.registry.package import exports

pytestmark = pytest.mark.slow


def test_a_damaged_export_is_not_released_and_is_made_anew(tmp_path: Path, engine_cache: Path) -> None:
    model = snapshot.resolve("embedded")
    made = exported(model, engine_cache, "exact", lambda _: None)
    kept = tmp_path / "engines" / made.name
    shutil.copytree(made, kept)
    assert exports(model, tmp_path, "copy") == {"exact": kept}
    with (kept / "openvino_model.bin").open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xff" * 4096)
    assert not is_whole(kept)
    assert exports(model, tmp_path, "copy") == {}
    said: list[str] = []
    assert exported(model, tmp_path / "engines", "exact", said.append) == kept
    assert "exporting" in said[0]
    assert is_whole(kept)
    (kept / "more.bin").touch()
    assert not is_whole(kept)
