"""Releases: registering, finding, promoting by evidence, loading by MLflow."""

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from fledge.core.errors import ConflictError, FledgeError, InputError, RefusedError
from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.engines.selection import release_folder
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import run_experiment
from fledge.prompts.store import open_prompts
from fledge.registry.naming import DEFAULT_NAME
from fledge.registry.release import history, promote, register, rollback, verify
from fledge.releases.manifest import MANIFEST, read_release

QUESTION = "What is machine learning?"

pytestmark = pytest.mark.slow


def _config(workspace: Workspace) -> ExperimentConfig:
    return ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)


def _evidence(workspace: Workspace, digest: str, winner: str | None, **params: object) -> str:
    """Return a run with the result of a comparison."""
    client = MlflowClient(workspace.tracking_uri)
    content: dict[str, object] = {"winner": winner, "leader": "expert", "baseline": "simple", "metric": "token_f1"}
    content |= {"exploratory": False, "planned": None, "departures": []}
    content |= {key: value for key, value in params.items() if key in content}
    run = client.create_run(
        client.create_experiment(f"evidence-{uuid.uuid4()}", artifact_location=str(Path.cwd() / "a"))
    )
    for arm in ("simple", "expert"):
        tags = {"mlflow.parentRunId": run.info.run_id, "fledge.arm": arm}
        nested = client.create_run(run.info.experiment_id, tags=tags).info.run_id
        values = {"prompt": f"{arm}/1", "model": "embedded", "model_digest": digest}
        for name, value in {**values, **{key: value for key, value in params.items() if key not in content}}.items():
            client.log_param(nested, name, value)
    client.log_text(run.info.run_id, json.dumps(content), "comparison.json")
    return str(run.info.run_id)


def _evaluation(workspace: Workspace, digest: str, gates: list[tuple[str, bool]]) -> str:
    """Return a run with the result of an evaluation of the prompt `expert`."""
    client = MlflowClient(workspace.tracking_uri)
    experiment = client.create_experiment(f"evaluation-{uuid.uuid4()}", artifact_location=str(Path.cwd() / "a"))
    run = client.create_run(experiment)
    tags = {"mlflow.parentRunId": run.info.run_id, "fledge.arm": "expert"}
    nested = client.create_run(experiment, tags=tags).info.run_id
    for name, value in (("prompt", "expert/1"), ("model", "embedded"), ("model_digest", digest)):
        client.log_param(nested, name, value)
    content = {"gates": [{"gate": gate, "passed": passed} for gate, passed in gates]}
    client.log_text(run.info.run_id, json.dumps(content), "evaluation.json")
    return str(run.info.run_id)


def _model_digest(workspace: Workspace, version: int) -> str:
    client = MlflowClient(workspace.tracking_uri)
    return str(client.get_model_version(DEFAULT_NAME, str(version)).tags["fledge.model_digest"])


def test_registered_release_is_a_complete_mlflow_model(workspace: Workspace) -> None:
    release = register(_config(workspace), name=DEFAULT_NAME, prompt="expert")
    assert (release.version, release.model_uri) == (1, f"models:/{DEFAULT_NAME}/1")
    client = MlflowClient(workspace.tracking_uri)
    assert client.get_registered_model(DEFAULT_NAME).aliases == {}
    info = mlflow.models.get_model_info(release.model_uri)
    assert info.signature is not None
    assert info.signature.inputs.input_names() == [0, "question", "messages"]
    assert {param.name for param in info.signature.params} == {
        *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
    }
    assert info.saved_input_example_info is not None


def test_same_content_is_registered_once(workspace: Workspace) -> None:
    first, again, other = (
        register(_config(workspace), name="mine", prompt=name) for name in ("simple", "simple", "expert")
    )
    assert (first.version, again.version, other.version) == (1, 1, 2)
    assert (first.new, again.new, other.new) == (True, False, True)
    assert first.digest == again.digest != other.digest


def test_promotion_needs_evidence(workspace: Workspace) -> None:
    register(_config(workspace), name=DEFAULT_NAME, prompt="expert")
    digest = _model_digest(workspace, 1)
    with pytest.raises(RefusedError, match="no evidence was given"):
        promote(DEFAULT_NAME, 1, workspace=workspace)
    refusals = [
        (_evidence(workspace, digest, None), "has no winner"),
        (_evidence(workspace, digest, "simple"), "the prompt was simple/1, but the release uses expert/1"),
        (_evidence(workspace, "0" * 64, "expert"), "the model was another one"),
        (_evidence(workspace, digest, "expert", exploratory=True, departures=["alpha is 0.5"]), "alpha is 0.5"),
        (_evidence(workspace, digest, "expert", max_tokens=9), "max_tokens was 9, but the release has 128"),
        (_evaluation(workspace, digest, gates=[]), "the evaluation had no gates"),
        (_evaluation(workspace, digest, gates=[("token_f1>=0.6", False)]), "failed its gates: token_f1>=0.6"),
        ("0" * 32, "there is no run"),
    ]
    for run, problem in refusals:
        with pytest.raises(RefusedError, match=problem):
            promote(DEFAULT_NAME, 1, evidence=run, workspace=workspace)
    assert history(DEFAULT_NAME, workspace=workspace) == []

    proof = _evidence(workspace, digest, "expert")
    move = promote(DEFAULT_NAME, 1, evidence=proof, workspace=workspace)
    assert (move.before, move.after) == (None, 1)
    champion = MlflowClient(workspace.tracking_uri).get_model_version_by_alias(DEFAULT_NAME, "champion")
    assert int(champion.version) == 1
    (entry,) = history(DEFAULT_NAME, workspace=workspace)
    assert entry.evidence == proof
    assert entry.reason == "better than simple on token_f1"
    assert entry.forced is False


def test_passed_evaluation_is_evidence(workspace: Workspace) -> None:
    register(_config(workspace), name=DEFAULT_NAME, prompt="expert")
    passed = _evaluation(workspace, _model_digest(workspace, 1), gates=[("token_f1>=0.6", True)])
    promote(DEFAULT_NAME, 1, evidence=passed, workspace=workspace)
    assert history(DEFAULT_NAME, workspace=workspace)[0].reason == "passed token_f1>=0.6"


def test_prompt_alias_follows_promotion_and_rollback(workspace: Workspace) -> None:
    for name in ("simple", "expert"):
        register(_config(workspace), name=DEFAULT_NAME, prompt=name)
    prompts = open_prompts(workspace=workspace)

    def read_aliases() -> tuple[str, list[str]]:
        client = MlflowClient(workspace.tracking_uri)
        champion = client.get_model_version_by_alias(DEFAULT_NAME, "champion").version
        return str(champion), [name for name in ("simple", "expert") if "champion" in prompts.load(name).aliases]

    promote(DEFAULT_NAME, 1, force=True, reason="first", workspace=workspace)
    assert read_aliases() == ("1", ["simple"])
    promote(DEFAULT_NAME, 2, force=True, reason="second", workspace=workspace)
    assert read_aliases() == ("2", ["expert"])
    promote(DEFAULT_NAME, 2, force=True, reason="once more", workspace=workspace)
    move = rollback(DEFAULT_NAME, workspace=workspace)
    assert (move.before, move.after) == (2, 1)
    assert read_aliases() == ("1", ["simple"])
    with pytest.raises(InputError, match="has no earlier version"):
        rollback(DEFAULT_NAME, workspace=workspace)
    promote(DEFAULT_NAME, 2, force=True, reason="again", workspace=workspace)
    MlflowClient(workspace.tracking_uri).set_registered_model_alias(DEFAULT_NAME, "champion", "1")
    with pytest.raises(ConflictError, match="outside of fledge"):
        rollback(DEFAULT_NAME, workspace=workspace)
    shown = [(move.action, move.before, move.after) for move in history(DEFAULT_NAME, workspace=workspace)]
    promotions = [("promote", 1, 2), ("rollback", 2, 1), ("promote", 2, 2), ("promote", 1, 2), ("promote", None, 1)]
    assert shown == promotions
    assert all(len(move.digest) == 64 for move in history(DEFAULT_NAME, workspace=workspace))


def test_prompt_shared_with_another_model_keeps_its_alias(workspace: Workspace) -> None:
    for model, name in (("one", "simple"), ("two", "simple"), ("one", "expert")):
        version = register(_config(workspace), name=model, prompt=name).version
        promote(model, version, force=True, reason="test", workspace=workspace)
    prompts = open_prompts(workspace=workspace)
    assert [prompts.load(name).aliases for name in ("simple", "expert")] == [("champion",), ("champion",)]
    rollback("one", workspace=workspace)
    assert [prompts.load(name).aliases for name in ("simple", "expert")] == [("champion",), ()]


def test_deleted_prompt_does_not_block_moves(workspace: Workspace) -> None:
    for name in ("simple", "expert"):
        version = register(_config(workspace), name=DEFAULT_NAME, prompt=name).version
        promote(DEFAULT_NAME, version, force=True, reason="test", workspace=workspace)
    client, lines = MlflowClient(workspace.tracking_uri), list[str]()
    client.delete_prompt_version("simple", "1")
    assert rollback(DEFAULT_NAME, say=lines.append, workspace=workspace).after == 1
    assert client.get_model_version_by_alias(DEFAULT_NAME, "champion").version == 1
    promote(DEFAULT_NAME, 1, force=True, reason="once more", say=lines.append, workspace=workspace)
    assert "prompt simple/1 no longer exists; its alias was not moved" in lines
    assert [move.after for move in history(DEFAULT_NAME, workspace=workspace)] == [1, 1, 2, 1]


def test_release_keeps_the_stop_texts_of_its_arm(workspace: Workspace) -> None:
    stop = ("\n", "a, b", " end")
    config = replace(
        _config(workspace), engine="scripted", limit=2, prompts=("simple",), generation=GenerationParams(stop=stop)
    )
    found = register(config, name="mine", run_id=run_experiment(config).run_id, arm="simple")
    folder = release_folder(f"models:/mine/{found.version}", workspace)
    assert read_release(folder).generation["stop"] == list(stop)


def test_promotion_fails_unless_the_alias_is_the_expected_version(workspace: Workspace) -> None:
    for name in ("simple", "expert"):
        register(_config(workspace), name=DEFAULT_NAME, prompt=name)
    promote(DEFAULT_NAME, 1, force=True, reason="first", expected=0, workspace=workspace)
    with pytest.raises(ConflictError, match="is 1, not nothing"):
        promote(DEFAULT_NAME, 2, force=True, reason="second", expected=0, workspace=workspace)
    promote(DEFAULT_NAME, 2, force=True, reason="second", expected=1, workspace=workspace)
    assert len(history(DEFAULT_NAME, workspace=workspace)) == 2


def test_force_needs_a_reason_and_is_recorded(workspace: Workspace) -> None:
    for name in ("simple", "expert"):
        register(_config(workspace), name=DEFAULT_NAME, prompt=name)
    with pytest.raises(InputError, match="needs a reason"):
        promote(DEFAULT_NAME, 1, force=True, workspace=workspace)
    promote(DEFAULT_NAME, 1, force=True, reason="first one", workspace=workspace)
    promote(DEFAULT_NAME, 2, force=True, reason="second one", workspace=workspace)
    assert [
        (move.before, move.after, move.reason, move.forced) for move in history(DEFAULT_NAME, workspace=workspace)
    ] == [
        (1, 2, "second one", True),
        (None, 1, "first one", True),
    ]


def test_unknown_models_and_versions_are_rejected(workspace: Workspace) -> None:
    for use in (history, rollback):
        with pytest.raises(InputError, match="no registered model 'nobody'"):
            use("nobody", workspace=workspace)
    for target in ("nobody", "nobody@champion", "models:/nobody/1", "nobody/x", "embedded"):
        with pytest.raises(InputError, match="no release"):
            verify(target, workspace=workspace)
    with pytest.raises(InputError, match="no release"):
        promote("nobody", 1, force=True, reason="why not", workspace=workspace)


def test_release_is_found_by_every_reference(workspace: Workspace) -> None:
    register(_config(workspace), name=DEFAULT_NAME, prompt="simple")
    promote(DEFAULT_NAME, 1, force=True, reason="first", workspace=workspace)
    names = (DEFAULT_NAME, f"{DEFAULT_NAME}@champion", f"{DEFAULT_NAME}/1", f"models:/{DEFAULT_NAME}/1")
    assert len({release_folder(name, workspace) for name in names}) == 1
    with pytest.raises(InputError, match="no release"):
        release_folder(f"{DEFAULT_NAME}@challenger", workspace)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "snapshot/model.safetensors was changed": lambda folder: _flip(folder / "snapshot" / "model.safetensors"),
    "snapshot/config.json is missing": lambda folder: (folder / "snapshot" / "config.json").unlink(),
    "snapshot/extra.bin is not in the manifest": lambda folder: (folder / "snapshot" / "extra.bin").write_bytes(b"."),
    "release.json differs from the registered one": lambda folder: _edit(folder / MANIFEST),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()  # the content has other names, too
    path.write_bytes(content)


def _edit(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "licence": "none"}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_store_is_refused(workspace: Workspace, damage: str) -> None:
    release = register(_config(workspace), name=DEFAULT_NAME, prompt="simple")
    (stored,) = Path.cwd().glob("mlartifacts/*/models/*/artifacts/artifacts/release")
    files = sum(path.is_file() for path in stored.rglob("*")) - 1
    assert verify(f"{DEFAULT_NAME}/1", workspace=workspace) == (DEFAULT_NAME, 1, release.digest, files, False, False)
    DAMAGES[damage](stored)
    with pytest.raises(FledgeError, match=damage):
        verify(f"{DEFAULT_NAME}/1", workspace=workspace)
    with pytest.raises(FledgeError, match=damage):
        release_folder(f"{DEFAULT_NAME}/1", workspace)
    with pytest.raises(FledgeError, match=damage):
        promote(DEFAULT_NAME, 1, force=True, reason="all the same", workspace=workspace)
    if MANIFEST not in damage:  # a changed manifest is noticed only against the registry
        with pytest.raises(FledgeError, match=damage):
            mlflow.pyfunc.load_model(release.model_uri)
    assert history(DEFAULT_NAME, workspace=workspace) == []


def test_damaged_cached_copy_is_fetched_again(workspace: Workspace) -> None:
    register(_config(workspace), name=DEFAULT_NAME, prompt="simple")
    folder = release_folder(f"{DEFAULT_NAME}/1", workspace)
    assert read_release(folder).version == 1
    _flip(folder / "snapshot" / "model.safetensors")
    with pytest.raises(FledgeError, match=r"model\.safetensors was changed; it is not loaded"):
        read_release(folder)
    assert read_release(release_folder(f"{DEFAULT_NAME}/1", workspace)).version == 1


def test_release_without_a_manifest_is_rejected(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(FledgeError, match=r"no readable release\.json"):
        read_release(tmp_path)
