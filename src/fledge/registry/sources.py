"""What a release is made of: a model, or an arm of a run."""

from typing import Any, NamedTuple

from fledge.core.errors import InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import Format
from fledge.engines import selection
from fledge.experiments.arms import default_generation
from fledge.experiments.config import ExperimentConfig
from fledge.models.snapshot import Snapshot
from fledge.prompts.prompt import Prompt, PromptFormat
from fledge.registry.registered import Standing
from fledge.releases.manifest import implied_format
from fledge.tracking.connection import connect


class Source(NamedTuple):
    """What a release is made of. `own` says that its generation settings are yet to be combined with its prompt's."""

    model: str
    snapshot: Snapshot
    prompt: str | None
    generation: GenerationParams
    own: bool
    evaluation: dict[str, Any]
    arm: Standing | None
    format: Format | None = None

    def format_for(self, prompt: Prompt, config: ExperimentConfig) -> PromptFormat:
        """How the prompt is to be put to the model: as configured, else as the arm was asked."""
        if config.format != "auto" or self.own:
            return config.format
        return self.format or implied_format(prompt.template)


def source_of_model(config: ExperimentConfig, prompt: str | None) -> Source:
    """A model as a release takes it."""
    snapshot = selection.find_snapshot(config.model, config)
    generation = default_generation(config, snapshot)
    return Source(config.model, snapshot, prompt, generation, own=True, evaluation={}, arm=None)


def source_of_run(config: ExperimentConfig, run_id: str, arm: str | None, prompt: str | None) -> Source:
    """An arm of a run as a release takes it. Raises `InputError` where its model has changed since."""
    from fledge.experiments._mlflow_runs import find_run
    from fledge.registry._mlflow_evidence import chosen_arm, standing

    client = connect(config.tracking)
    run_id = find_run(client, run_id)
    found, evaluation = chosen_arm(client, run_id, arm)
    if not (prompt or found.prompt):
        raise InputError(f"{found.name} is a chain of your own, which no release holds", hint="--prompt NAME")
    snapshot = selection.find_snapshot(found.model, config)
    if snapshot.digest != found.model_digest:
        raise InputError(
            f"{found.model} is not the model any more that run {run_id} asked: its files have changed",
            hint="repeat the experiment",
        )
    return Source(
        found.model,
        snapshot,
        prompt or found.prompt,
        found.generation,
        own=prompt is not None,
        evaluation=evaluation,
        arm=standing(client, run_id, found.name),
        format=found.format,
    )
