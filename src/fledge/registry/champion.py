"""Register and promote a champion in one step, for `fledge run`."""

from fledge.core.errors import InputError
from fledge.core.types import Say
from fledge.engines import selection
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import ReleaseConfig, promote, register
from fledge.releases import release_cache
from fledge.releases.manifest import load_manifest
from fledge.tracking.connection import connect

REASON = "fledge run"


def ensure_champion(config: ExperimentConfig, release: ReleaseConfig, say: Say) -> str:
    """Ensure that the champion is a release of `config.model`, with any prompt, and return its name.

    If it is not, register and force-promote one. If the local cache has it, MLflow is not queried.
    """
    if selection.is_release(config.model):
        raise InputError(f"{config.model} is already a release", hint=f"fledge serve {config.model}")
    snapshot = selection.find_snapshot(config.model, config)
    name = release.name_for(config.model)
    reference = release_cache.ReleaseRef(name, "champion", "")
    cached = release_cache.recall(config.state_dir / "releases", config.tracking, reference)
    say(f"running {snapshot.source} as {name}@champion")
    if cached is not None and (manifest := load_manifest(cached)).model_digest == snapshot.digest:
        say(f"{name}@champion is version {manifest.version}, with the prompt {manifest.prompt_label}")
        return name
    if _champion_digest(config, name) != snapshot.digest:
        made = register(config, name=name, engines=release.engines, say=say)
        if _champion_digest(config, name) == snapshot.digest:  # another process did the same meanwhile
            return name
        move = promote(name, made.version, force=True, reason=REASON, say=say, workspace=config)
        say(f"{name}@champion: {move.before or 'none'} -> {move.after}, by force: {REASON}")
    return name


def _champion_digest(config: ExperimentConfig, name: str) -> str:
    """Return the digest of the champion's model from the registry, empty if there is no champion."""
    from fledge.releases._mlflow_releases import MODEL_TAG, find

    try:
        return str(find(connect(config.tracking), f"{name}@champion").tags.get(MODEL_TAG, ""))
    except InputError:
        return ""
