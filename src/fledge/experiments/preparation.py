"""First step of an experiment: from the configuration to what is asked, by which models, with which arms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fledge.core.errors import InputError
from fledge.core.network import without_password
from fledge.core.types import Say
from fledge.engines.engine import Engine
from fledge.experiments.arms import (
    Arm,
    build_arms,
    build_chain_arms,
    check_room,
    check_variables,
    default_prompt,
    select_arms,
)
from fledge.experiments.checks import check_metric, check_questions
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.experiments.engines import Models, find_models, pin
from fledge.experiments.questions import select_questions
from fledge.experiments.shots import add_shots, draw_shots
from fledge.questions.question_set import Question, QuestionSet

if TYPE_CHECKING:
    from fledge.prompts.prompt import PromptStore


@dataclass(frozen=True)
class Preparation:
    """What an experiment asks, checked as far as is possible without MLflow and without a running engine."""

    config: ExperimentConfig
    questions: QuestionSet
    arms: tuple[ArmConfig, ...]
    shots: tuple[Question, ...]
    models: Models
    chains: Mapping[str, Any]

    def load_arms(self, store: "PromptStore") -> tuple[ExperimentConfig, list[Arm]]:
        """Return the arms with their prompts, and the configuration with the name of the default prompt if it was
        used. Raises `InputError` for an unknown prompt, a missing variable or a prompt that leaves no room."""
        config = self.config
        prompts = [store.load(arm.prompt or default_prompt(self.models[arm.model])) for arm in self.arms]
        if "" in config.prompts:
            config = replace(config, prompts=tuple(dict.fromkeys(prompt.name for prompt in prompts)))
        with_shots = add_shots(config, self.arms, prompts, self.models, self.shots, store)
        arms = build_arms(config, self.arms, with_shots, self.models)
        if config.logprobs:
            arms = [replace(arm, generation=replace(arm.generation, logprobs=True)) for arm in arms]
        check_variables(arms, self.questions)
        check_room(arms, self.models)
        return config, arms

    def pin_arms(self, arms: Sequence[Arm], engines: Mapping[str, Engine]) -> list[Arm]:
        """Return the arms with digest, engine and mode of their models, followed by the custom chains."""
        pinned = [pin(arm, self.models[arm.model], engines[arm.model]) for arm in arms]
        return pinned + build_chain_arms(self.chains, pinned)


def prepare(
    config: ExperimentConfig | None,
    questions: QuestionSet | None,
    chains: Mapping[str, Any],
    engine: Engine | None,
    say: Say,
) -> Preparation:
    """Select questions, arms and models. Raises `InputError` for settings that cannot be used together."""
    if config is None:
        config = ExperimentConfig.load({"prompts": ()} if chains else None)
    if not (config.prompts or config.arms or chains):
        raise InputError("the experiment has no prompts", hint="--prompts simple,expert")
    check_metric(config)
    selected = select_questions(config, questions, say)
    config = replace(config, questions=selected.source)  # for a set in MLflow, its version
    arms = select_arms(config)
    shots = draw_shots(config, arms, selected, questions, say)
    models = find_models(config, arms, engine)  # before MLflow is loaded, which is slow
    if chains and config.json_schema:
        raise InputError("json_schema does not apply to chains of your own", hint="set the structure in the chain")
    say(f"asking {', '.join([*models, *chains])}; results go to {without_password(config.tracking)}")
    check_questions(config, selected, len(arms) + len(chains), say)
    return Preparation(config, selected, tuple(arms), tuple(shots), models, chains)
