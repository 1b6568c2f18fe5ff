"""Releases: registered, found, promoted by evidence, loaded by MLflow."""

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from fledge.core.errors import FledgeError, InputError, RefusedError
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.models.manifest import MANIFEST, read_release
from fledge.models.selection import release_folder
from fledge.registry.release import DEFAULT_NAME, history, promote, register

QUESTION = "What is machine learning?"

pytestmark = pytest.mark.slow


def _config(workspace: Workspace) -> ExperimentConfig:
    return ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)


def _evidence(workspace: Workspace, digest: str, winner: str | None) -> str:
    """A run as a comparison leaves it."""
    client = MlflowClient(workspace.tracking_uri)
    run = client.create_run(
        client.create_experiment(f"evidence-{winner}-{digest[:4]}", artifact_location=str(Path.cwd() / "a"))
    )
    for arm in ("simple", "expert"):
        tags = {"mlflow.parentRunId": run.info.run_id, "fledge.arm": arm}
        nested = client.create_run(run.info.experiment_id, tags=tags).info.run_id
        for name, value in (("prompt", f"{arm}/1"), ("model", "embedded"), ("model_digest", digest)):
            client.log_param(nested, name, value)
    content = {"winner": winner, "leader": "expert", "baseline": "simple", "metric": "token_f1"}
    client.log_text(run.info.run_id, json.dumps(content), "comparison.json")
    return str(run.info.run_id)


def _model_digest(workspace: Workspace, version: int) -> str:
    client = MlflowClient(workspace.tracking_uri)
    return str(client.get_model_version(DEFAULT_NAME, str(version)).tags["fledge.model_digest"])


def test_a_registered_release_has_what_mlflow_needs(workspace: Workspace) -> None:
    release = register(_config(workspace), name=DEFAULT_NAME, prompt="expert")
    assert (release.version, release.model_uri) == (1, f"models:/{DEFAULT_NAME}/1")
    client = MlflowClient(workspace.tracking_uri)
    assert client.get_registered_model(DEFAULT_NAME).aliases == {}
    info = mlflow.models.get_model_info(release.model_uri)
    assert info.signature is not None
    assert info.signature.inputs.input_names() == ["question"]
    assert {param.name for param in info.signature.params} == {"max_tokens", "temperature", "top_p"}
    assert info.saved_input_example_info is not None

    model = mlflow.pyfunc.load_model(release.model_uri)
    answers = model.predict(pd.DataFrame({"question": [QUESTION, "What is MLOps?"]}))
    assert len(answers) == 2
    assert answers[0].startswith("Machine learning")
    assert model.predict([{"question": QUESTION}], params={"max_tokens": 3})[0] != answers[0]
    model.unwrap_python_model().engine.close()


def test_the_same_content_is_the_same_version(workspace: Workspace) -> None:
    first, again, other = (
        register(_config(workspace), name="mine", prompt=name) for name in ("simple", "simple", "expert")
    )
    assert first == again
    assert (first.version, other.version) == (1, 2)
    assert first.digest != other.digest


def test_promotion_needs_evidence(workspace: Workspace) -> None:
    register(_config(workspace), name=DEFAULT_NAME, prompt="expert")
    digest = _model_digest(workspace, 1)
    with pytest.raises(RefusedError, match="no evidence was given"):
        promote(workspace, DEFAULT_NAME, 1)
    refusals = [
        (_evidence(workspace, digest, None), "has no winner"),
        (_evidence(workspace, digest, "simple"), "prompt simple/1 won, it uses expert/1"),
        (_evidence(workspace, "0" * 64, "expert"), "another model won"),
        ("0" * 32, "there is no run"),
    ]
    for run, problem in refusals:
        with pytest.raises(RefusedError, match=problem):
            promote(workspace, DEFAULT_NAME, 1, evidence=run)
    assert history(workspace, DEFAULT_NAME) == []

    proof = _evidence(workspace, digest, "expert")
    move = promote(workspace, DEFAULT_NAME, 1, evidence=proof)
    assert move.as_dict() == {"name": DEFAULT_NAME, "alias": "champion", "from": None, "to": 1}
    champion = MlflowClient(workspace.tracking_uri).get_model_version_by_alias(DEFAULT_NAME, "champion")
    assert int(champion.version) == 1
    (entry,) = history(workspace, DEFAULT_NAME)
    assert entry["evidence"] == proof
    assert entry["reason"] == "better than simple on token_f1"
    assert entry["forced"] is False


def test_force_needs_a_reason_and_is_recorded(workspace: Workspace) -> None:
    for name in ("simple", "expert"):
        register(_config(workspace), name=DEFAULT_NAME, prompt=name)
    with pytest.raises(InputError, match="needs a reason"):
        promote(workspace, DEFAULT_NAME, 1, force=True)
    promote(workspace, DEFAULT_NAME, 1, force=True, reason="first one")
    promote(workspace, DEFAULT_NAME, 2, force=True, reason="second one")
    assert [
        (move["from"], move["to"], move["reason"], move["forced"]) for move in history(workspace, DEFAULT_NAME)
    ] == [
        (1, 2, "second one", True),
        (None, 1, "first one", True),
    ]


def test_a_release_is_found_by_every_name(workspace: Workspace) -> None:
    register(_config(workspace), name=DEFAULT_NAME, prompt="simple")
    promote(workspace, DEFAULT_NAME, 1, force=True, reason="first")
    names = (DEFAULT_NAME, f"{DEFAULT_NAME}@champion", f"{DEFAULT_NAME}/1", f"models:/{DEFAULT_NAME}/1")
    assert len({release_folder(name, workspace) for name in names}) == 1
    with pytest.raises(InputError, match="no release"):
        release_folder(f"{DEFAULT_NAME}@challenger", workspace)


@pytest.mark.parametrize("damage", ["changed", "missing", "not in the manifest"])
def test_a_damaged_release_is_not_loaded(workspace: Workspace, damage: str) -> None:
    register(_config(workspace), name=DEFAULT_NAME, prompt="simple")
    folder = release_folder(f"{DEFAULT_NAME}/1", workspace)
    assert read_release(folder).version == 1
    weights = folder / "snapshot" / "model.safetensors"
    if damage == "changed":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "missing":
        weights.unlink()
    else:
        weights.with_name("extra.bin").write_bytes(b"\x80")
    with pytest.raises(FledgeError, match=damage):
        read_release(folder)


def test_a_release_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(FledgeError, match=r"no readable release\.json"):
        read_release(tmp_path)
