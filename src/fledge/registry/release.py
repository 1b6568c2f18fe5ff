"""`register`, `promote` and `history`: releases as a user handles them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fledge.core.errors import InputError
from fledge.core.settings import Workspace, option
from fledge.experiments.config import ExperimentConfig
from fledge.models import snapshot

if TYPE_CHECKING:
    from fledge.registry._mlflow import Move, Release

DEFAULT_NAME = "huggingface-dialogpt-model"


@dataclass(frozen=True)
class ReleaseConfig(Workspace):
    """What the registry needs to know."""

    name: str = option(DEFAULT_NAME, "registered model", env="MODEL_NAME")


def register(config: ExperimentConfig, *, name: str, run_id: str | None = None, prompt: str | None = None) -> "Release":
    """Register a release of `config.model` with one prompt, `simple` unless named.

    From a run, prompt version, model and settings are those of the comparison's winner, or of its leader where nothing
    won.
    """
    from fledge.experiments._mlflow import load_arm, load_comparison
    from fledge.prompts._mlflow import open_store
    from fledge.registry._mlflow import register_release
    from fledge.tracking._mlflow import connect

    client = connect(config.tracking)
    evidence: dict[str, Any] = {}
    if run_id:
        comparison = load_comparison(client, run_id)
        evidence = {"run_id": run_id, "winner": comparison["winner"], "metric": comparison["metric"]}
        name_of_arm = comparison["winner"] or comparison["leader"]
        arm = load_arm(client, run_id, name_of_arm)
        if not arm.prompt:
            raise InputError(f"{name_of_arm} is a chain of your own, which no release holds", hint="--prompt NAME")
        prompt = prompt or arm.prompt
        config = replace(config, model=arm.model, generation=arm.generation)
    model = snapshot.resolve(config.model)
    chosen = open_store(client).load(prompt or "simple")
    return register_release(
        client,
        name,
        model,
        chosen,
        config.generation,
        experiment=config.experiment_name,
        evidence=evidence,
        state_dir=config.state_dir,
    )


def promote(
    workspace: Workspace,
    name: str,
    version: int,
    *,
    alias: str = "champion",
    evidence: str | None = None,
    force: bool = False,
    reason: str = "",
) -> "Move":
    """Move an alias by evidence, or by force with a reason, and keep the release ready for `serve`."""
    from fledge.models._mlflow import fetch, find
    from fledge.registry._mlflow import promote_release
    from fledge.tracking._mlflow import connect

    client = connect(workspace.tracking)
    found = find(client, f"{name}/{version}")
    fetch(client, found, workspace.state_dir / "releases")
    return promote_release(client, found, alias, evidence=evidence, force=force, reason=reason)


def history(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """Moves of a registered model's aliases, newest first: time, who, alias, from, to, reason, evidence, forced."""
    from fledge.registry import _mlflow
    from fledge.tracking._mlflow import connect

    return _mlflow.history(connect(workspace.tracking), name)
