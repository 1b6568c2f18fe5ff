"""The caller's MLflow store is restored."""

import os
from pathlib import Path

import mlflow
import pytest

import fledge


def test_a_call_restores_the_callers_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine, other = f"sqlite:///{tmp_path / 'mine.db'}", f"sqlite:///{tmp_path / 'other.db'}"
    mlflow.set_tracking_uri(mine)
    mlflow.set_registry_uri(mine)
    try:
        assert fledge.Workspace().tracking == mine
        fledge.open_prompts(workspace=fledge.Workspace(tracking_uri=other))
        assert (tmp_path / "other.db").exists()
        assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == (mine, mine)
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri("")
        os.environ.pop("MLFLOW_REGISTRY_URI", None)
    assert fledge.Workspace().tracking == f"sqlite:///{tmp_path / 'mlflow.db'}"
    fledge.open_prompts(workspace=fledge.Workspace(tracking_uri=other))
    assert not {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"} & os.environ.keys()
