"""Contents of a release: engines, files shared with other releases of the model, and its name."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.engines.selection import release_folder
from fledge.experiments.config import ExperimentConfig
from fledge.models.snapshot import resolve
from fledge.registry.release import promote, register, verify
from fledge.releases.manifest import ENGINES, load_manifest

pytestmark = pytest.mark.slow


def _config(workspace: Workspace, **settings: Any) -> ExperimentConfig:
    return ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, **settings)


@pytest.mark.parametrize(
    ("engines", "setting", "kept"),
    [(None, "", {"exact"}), (("fast",), "", {"fast"}), (None, "none", set()), (None, "exact,fast", {"exact", "fast"})],
)
def test_engines_are_exported_and_included(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, engines: Any, setting: str, kept: set[str]
) -> None:
    monkeypatch.setenv("FLEDGE_ENGINES", setting)
    lines: list[str] = []
    register(_config(workspace), name="mine", engines=engines, say=lines.append)
    assert lines[0].startswith("registering embedded as mine")
    folder = release_folder("mine/1", workspace)
    manifest = load_manifest(folder)
    assert manifest.engines.keys() == kept
    assert {name.split("/")[1] for name in manifest.files if name.startswith(ENGINES)} == kept
    for mode in kept:
        assert (folder / ENGINES / mode / "openvino_model.xml").is_file()
    if "fast" in kept:
        assert manifest.engines["fast"]["perplexity_ratio"] > 0


def test_export_is_announced_and_needs_an_openvino_model(workspace: Workspace, tmp_path: Path) -> None:
    config = _config(workspace, cache=str(tmp_path / "cache"))
    lines: list[str] = []
    register(config, name="mine", say=lines.append)
    assert lines[0] == "registering embedded as mine; exporting its engine files takes about 8 s"
    assert any("converting" in text for text in lines)
    with pytest.raises(InputError, match="--weights reference stores no engine files"):
        register(config, name="mine", engines=("exact",), weights="reference")
    with pytest.raises(InputError, match="cannot be combined"):
        register(config, name="mine", engines=("none", "fast"))


def test_name_is_derived_from_the_model_unless_given(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("My Model", "simple"):
        shutil.copytree(resolve("embedded").path, tmp_path / name)
    config = _config(workspace, model=str(tmp_path / "My Model"), engine="scripted")
    assert register(config).name == "my-model"
    assert register(config, name="mine").name == "mine"
    monkeypatch.setenv("MODEL_NAME", "set")
    assert register(config).name == "set"
    monkeypatch.delenv("MODEL_NAME")
    with pytest.raises(InputError, match="'simple' is the name of a prompt") as caught:
        register(replace(config, model=str(tmp_path / "simple")))
    assert caught.value.hint == "--name simple-model"


def _disk_usage(*folders: Path) -> int:
    """Return the bytes that folders take on disk; hard links count once."""
    found = {path.stat().st_ino: path.stat() for folder in folders for path in folder.rglob("*") if path.is_file()}
    return sum(512 * item.st_blocks for item in found.values())


def test_releases_of_one_model_share_files(workspace: Workspace) -> None:
    store, state = Path.cwd() / "mlartifacts", Path(workspace.state)
    register(_config(workspace), name="mine", prompt="simple")
    promote("mine", 1, force=True, reason="first", workspace=workspace)
    first = _disk_usage(store, state)
    for name, prompt in (("mine", "expert"), ("other", "simple")):
        version = register(_config(workspace), name=name, prompt=prompt).version
        promote(name, version, force=True, reason="another", workspace=workspace)
    weights = [*store.rglob("model.safetensors"), *state.rglob("model.safetensors")]
    assert len(weights) == 6
    assert len({path.stat().st_ino for path in weights}) == 1
    assert weights[0].stat().st_ino != (resolve("embedded").path / weights[0].name).stat().st_ino
    code = _disk_usage(*store.glob("*/models/*/artifacts/code"))  # each release has its own copy of fledge's code
    assert _disk_usage(store, state) - first < 0.1 * first + code
    (gone,) = {path.parents[3] for path in store.rglob("release.json") if '"expert"' in path.read_text()}
    shutil.rmtree(gone)
    for name in ("mine/1", "other/1"):
        assert verify(name, workspace=workspace).files > 5
    with pytest.raises(FledgeError, match=r"no readable release\.json"):
        verify("mine/2", workspace=workspace)
