"""The source of a release: a model, or an arm of a run."""

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
    """The source of a release. With `own` its generation settings are still to be combined with its prompt's."""

    model: str
    snapshot: Snapshot
    prompt: str | None
    generation: GenerationParams
    own: bool
    evaluation: dict[str, Any]
    arm: Standing | None
    format: Format | None = None

    def format_for(self, prompt: Prompt, config: ExperimentConfig) -> PromptFormat:
        """Return the format of the prompt: the configured one, else the arm's."""
        if config.format != "auto" or self.own:
            return config.format
        return self.format or implied_format(prompt.template)


def source_of_model(config: ExperimentConfig, prompt: str | None) -> Source:
    """Return `config.model` as the source of a release."""
    snapshot = selection.find_snapshot(config.model, config)
    generation = default_generation(config, snapshot)
    return Source(config.model, snapshot, prompt, generation, own=True, evaluation={}, arm=None)


def source_of_run(config: ExperimentConfig, run_id: str, arm: str | None, prompt: str | None) -> Source:
    """Return an arm of a run as the source of a release. Raises `InputError` if its model has changed since."""
    from fledge.experiments._mlflow_runs import find_run
    from fledge.registry._mlflow_evidence import check_arm, choose_arm

    client = connect(config.tracking)
    run_id = find_run(client, run_id)
    found, evaluation = choose_arm(client, run_id, arm)
    if not (prompt or found.prompt):
        raise InputError(f"arm {found.name} is a custom chain, which cannot be released", hint="--prompt NAME")
    snapshot = selection.find_snapshot(found.model, config)
    if snapshot.digest != found.model_digest:
        raise InputError(
            f"the files of {found.model} have changed since run {run_id}",
            hint="repeat the experiment",
        )
    return Source(
        found.model,
        snapshot,
        prompt or found.prompt,
        found.generation,
        own=prompt is not None,
        evaluation=evaluation,
        arm=check_arm(client, run_id, found.name),
        format=found.format,
    )
