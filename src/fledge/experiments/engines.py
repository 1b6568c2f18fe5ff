"""The models of an experiment, and their engines."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fledge.core.errors import InputError
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.network import check_answers
from fledge.core.types import Say
from fledge.engines import selection
from fledge.engines.engine import Engine, StartingEngine
from fledge.engines.selection import RemoteModel
from fledge.experiments.arms import Arm
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.models.snapshot import Snapshot

if TYPE_CHECKING:
    from fledge.experiments.journal import ExperimentPlan

Models = Mapping[str, Snapshot | RemoteModel]


def find_models(config: ExperimentConfig, asked: Sequence[ArmConfig], given: Engine | None) -> Models:
    """Return the models of the arms by name. Raises `FledgeError` if a model or the judge is unavailable, or no engine
    can run a model."""
    found = {name: selection.find(name, config) for name in dict.fromkeys(arm.model for arm in asked)}
    for name, model in found.items():
        if isinstance(model, Snapshot) and not (given is not None and name == config.model):
            selection.choose(config, model)
    for url in [model.source for model in found.values() if isinstance(model, RemoteModel)] + [config.judging.judge]:
        if url and not (given is not None and url == config.model):
            check_answers(url.partition("#")[0])
    return found


class Engines(contextlib.AbstractContextManager["Engines"]):
    """The engines of an experiment: the given one, and one for each other model, which loads in the background and is
    closed at the end of the block."""

    def __init__(self, config: ExperimentConfig, models: Models, given: Engine | None, say: Say) -> None:
        self._given = {config.model: given} if given is not None and config.model in models else {}
        self._own: dict[str, StartingEngine] = {}
        try:
            for name in [name for name in models if name not in self._given]:
                self._own[name] = selection.launch(config, models[name], say)
        except BaseException:
            self.close()
            raise

    def wait_ready(self) -> dict[str, Engine]:
        """Wait for all engines and return them by model. Raises `FledgeError` if one cannot start."""
        for engine in self._own.values():
            engine.wait_ready()
        return {**self._own, **self._given}

    def close(self) -> None:
        """Close the engines that were started here; may be called again."""
        while self._own:
            self._own.popitem()[1].close()

    def __exit__(self, *_: object) -> None:
        with shield_from_interrupts():
            self.close()


def pin(arm: Arm, model: Snapshot | RemoteModel, engine: Engine) -> Arm:
    """Return the arm with the digest of its model and the mode and name of its engine."""
    return replace(arm, model_digest=_digest(model), mode=engine.info.mode, engine=engine.info.name)


def _digest(model: Snapshot | RemoteModel) -> str:
    return model.digest if isinstance(model, Snapshot) else model.source


def check_unchanged(plan: "ExperimentPlan", models: Models, engines: Mapping[str, Engine]) -> None:
    """Raise `InputError` if a model or its mode has changed since the experiment was started."""
    for arm in plan.arms:
        if arm.prompt is None:
            continue
        changed = ""
        if arm.model_digest != _digest(models[arm.model]):
            changed = f"the model {arm.model} has changed"
        elif arm.mode != engines[arm.model].info.mode:
            changed = f"the mode of {arm.model} has changed from {arm.mode} to {engines[arm.model].info.mode}"
        if changed:
            raise InputError(
                f"{changed} since the experiment was started",
                hint=f"fledge experiment --like {plan.run_id} starts a new one",
            )
