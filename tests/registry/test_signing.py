"""Signed releases."""

import subprocess
import sys
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import register, verify
from fledge.releases.manifest import SIGNATURE

pytest.importorskip("model_signing", reason="the extra sign is not installed")
pytestmark = pytest.mark.slow


def _keys(folder: Path, name: str) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run(
        ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)], check=True, capture_output=True
    )
    return private, public


def _release_folder() -> Path:
    (found,) = Path.cwd().glob("mlartifacts/*/models/*/artifacts/artifacts/release")
    return found


def test_signature_is_valid_only_for_its_key_and_content(workspace: Workspace, tmp_path: Path) -> None:
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)
    private, public = _keys(tmp_path, "ours")
    _, others = _keys(tmp_path, "theirs")
    with pytest.raises(InputError, match="is not a private key"):
        register(config, name="mine", sign_key=public)
    with pytest.raises(InputError, match="is not a private key"):
        register(config, name="mine", sign_key=tmp_path / "none.pem")
    assert not (tmp_path / "mlartifacts").exists()

    register(config, name="mine", sign_key=private)
    found = verify("mine/1", key=public, workspace=workspace)
    assert (found.signed, found.signature_checked) == (True, True)
    assert verify("mine/1", workspace=workspace).signature_checked is False
    with pytest.raises(FledgeError, match="invalid signature"):
        verify("mine/1", key=others, workspace=workspace)
    with pytest.raises(InputError, match="is not a public key"):
        verify("mine/1", key=private, workspace=workspace)
    # The tool of the model_signing package agrees.
    command = ["-m", "model_signing", "verify", "key", str(_release_folder()), "--public_key", str(public)]
    tool = [sys.executable, *command, "--signature", str(_release_folder() / SIGNATURE)]
    assert subprocess.run(tool, check=False, capture_output=True).returncode == 0
    (_release_folder() / "more.txt").write_text("added")
    assert subprocess.run(tool, check=False, capture_output=True).returncode != 0


def test_unsigned_release_fails_the_check(workspace: Workspace, tmp_path: Path) -> None:
    register(ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state), name="mine")
    with pytest.raises(FledgeError, match="is not signed"):
        verify("mine/1", key=_keys(tmp_path, "ours")[1], workspace=workspace)
