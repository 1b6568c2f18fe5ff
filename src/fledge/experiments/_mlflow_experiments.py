"""The runs of an experiment in MLflow: start a parent run and one for each arm, and read what is recorded in them."""

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException

from fledge.comparison.arms import ArmDescription
from fledge.core.errors import InputError
from fledge.core.generation import SETTINGS, GenerationParams
from fledge.core.interrupts import postpone_interrupts, scratch_folder, shield_from_interrupts
from fledge.core.settings import load, options
from fledge.core.types import EngineInfo, Format
from fledge.engines.selection import RemoteModel
from fledge.experiments.arms import Arm
from fledge.experiments.config import ExperimentConfig, as_param, planned_metric
from fledge.experiments.journal import ExperimentPlan
from fledge.experiments.run_ids import LIST_RUNS, short_id
from fledge.models.snapshot import Snapshot
from fledge.prompts.prompt import PromptStore
from fledge.questions.question_set import QuestionSet
from fledge.tracking._mlflow_connection import experiment_id, status_after

TABLE = "answers.json"
CONFIG = "config.json"
PLAN = "plan.json"
MAX_PARAM_CHARACTERS = 6000  # MLflow's limit
# Params of a run, and the snapshot fields that they record.
MODEL_PARAMS = {
    "model_digest": "digest",
    "model_commit": "commit",
    "model_architecture": "architecture",
    "model_parameters": "parameters",
    "model_licence": "licence",
}
StartedModels = Mapping[str, tuple[Snapshot | RemoteModel, EngineInfo]]


def start_runs(
    client: MlflowClient,
    config: ExperimentConfig,
    arms: Sequence[Arm],
    questions: QuestionSet,
    models: StartedModels,
    store: PromptStore,
) -> ExperimentPlan:
    """Create the parent run and a nested run and LoggedModel for each arm, with params, tags and the question set."""
    experiment = experiment_id(client, config.experiment_name)
    common = {
        **config.as_params(),
        "question_set_digest": questions.digest,
        "question_count": str(len(questions.questions)),
    }
    started: list[Arm] = []
    runs: list[str] = []
    try:
        about = _model_params(*next(iter(models.values()), (None, None)))
        tags = {**config.run_tags, "fledge.kind": "experiment"}
        name = f"experiment-{time.strftime('%Y%m%d-%H%M%S')}"
        with postpone_interrupts():
            runs.append(client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        _log_description(client, runs[0], {**common, **about}, questions)
        client.log_dict(runs[0], _pin_config(config, arms), CONFIG)
        client.log_dict(runs[0], _build_plan(config, arms, questions), PLAN)
        for arm in arms:
            params = {**common, **_arm_params(arm, models)}
            tags = {
                **config.run_tags,
                "fledge.kind": "arm",
                "fledge.arm": arm.name,
                "mlflow.parentRunId": runs[0],
            }
            with postpone_interrupts():
                runs.append(client.create_run(experiment, run_name=arm.name, tags=tags).info.run_id)
            _log_description(client, runs[-1], params, questions)
            model_id = _create_logged_model(client, experiment, replace(arm, run_id=runs[-1]), params)
            if arm.prompt is not None:
                store.link_to_run(arm.prompt, runs[-1])
                if model_id:
                    client.link_prompt_version_to_model(arm.prompt.name, str(arm.prompt.version), model_id)
            started.append(replace(arm, run_id=runs[-1], model_id=model_id))
    except BaseException as error:
        with shield_from_interrupts():
            for run_id in runs:
                with contextlib.suppress(MlflowException):  # the store may be what failed
                    client.set_terminated(run_id, status_after(error))
        raise
    return ExperimentPlan(runs[0], experiment, config, tuple(started), questions)


def _arm_params(arm: Arm, models: StartedModels) -> dict[str, str]:
    return {
        **_model_params(*models.get(arm.model, (None, None))),
        "model": arm.model,
        **{name: as_param(getattr(arm.generation, name)) for name in (*SETTINGS, "n", "ignore_eos")},
        "stop": json.dumps(arm.generation.stop),  # as JSON, which keeps commas and white space
        "arm_digest": arm.digest,
        "prompt": arm.label,
        "format": arm.format or "",
        "template": arm.prompt.text if arm.prompt else arm.chain,
        **({"system": arm.prompt.system} if arm.prompt and arm.prompt.system else {}),
    }


def _log_description(client: MlflowClient, run_id: str, params: Mapping[str, str], questions: QuestionSet) -> None:
    client.log_batch(run_id, params=[Param(key, value[:MAX_PARAM_CHARACTERS]) for key, value in params.items()])
    used = DatasetInput(create_dataset(questions), tags=[InputTag("mlflow.data.context", "eval")])
    client.log_inputs(run_id, datasets=[used])


def create_dataset(questions: QuestionSet) -> Dataset:
    """Return the question set as an MLflow dataset."""
    source = questions.source
    return Dataset(
        name=source.removeprefix("dataset:") if source.startswith("dataset:") else re.split(r"[\\/]", source)[-1],
        digest=questions.digest[:8],  # the length of MLflow's own digests
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_rows": len(questions.questions)}),
    )


def _model_params(model: Snapshot | RemoteModel | None, info: EngineInfo | None) -> dict[str, str]:
    params = {}
    if info is not None:
        params = {
            "engine": info.name,
            "engine_device": info.device,
            "engine_reason": info.reason,
            "mode": info.mode,
        }
    if isinstance(model, Snapshot):
        params |= {name: str(getattr(model, of)) for name, of in MODEL_PARAMS.items()}
    return params


def _create_logged_model(client: MlflowClient, experiment: str, arm: Arm, params: Mapping[str, str]) -> str:
    """Create an MLflow LoggedModel for an arm and return its id, empty if the server has no logged models."""
    try:
        model: LoggedModel = client.create_logged_model(
            experiment,
            name=re.sub(r"[^\w-]+", "-", arm.name),
            source_run_id=arm.run_id,
            params={key: params[key] for key in ("prompt", "model", "arm_digest")},
            tags={"fledge.arm": arm.name},
            model_type="fledge-arm",
        )
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        client.log_outputs(arm.run_id, [LoggedModelOutput(model.model_id, step=0)])
    except (MlflowException, NotImplementedError) as error:
        if isinstance(error, MlflowException) and error.error_code != "ENDPOINT_NOT_FOUND":
            raise
        return ""
    return str(model.model_id)


def _pin_config(config: ExperimentConfig, arms: Sequence[Arm]) -> dict[str, Any]:
    """Return the configuration with fixed prompt versions, including few-shot ones, so that it can be repeated."""
    content = {**config.as_dict(), "shots": (0,), "shots_from": ""}
    labels = [arm.label for arm in arms if arm.prompt]
    if config.arms:
        pinned = zip(content["arms"], labels, strict=True)
        content["arms"] = [{**arm, "prompt": label, "shots": 0} for arm, label in pinned]
    else:
        content["prompts"] = list(dict.fromkeys(labels))
    return content


def _build_plan(config: ExperimentConfig, arms: Sequence[Arm], questions: QuestionSet) -> dict[str, Any]:
    """Return the pre-registered criteria of the comparison."""
    return {
        "metric": planned_metric(config, questions),
        "directions": {item.name: item.higher_is_better for item in config.chosen_scorers},
        "margin": config.margin,
        "alpha": config.alpha,
        "questions": len(questions.questions),
        "samples": config.samples,
        "arms": [arm.name for arm in arms],
        "time": time.time(),
    }


def load_plan(client: MlflowClient, run_id: str) -> dict[str, Any] | None:
    """Return the pre-registered plan of an experiment, None if it has none."""
    try:
        return load_artifact(client, run_id, PLAN, hint="")
    except InputError:
        return None


def load_table(client: MlflowClient, run_id: str) -> pd.DataFrame:
    """Return the answers of an experiment: one row for each cell. Raises `InputError` if it is unfinished."""
    try:
        content = load_artifact(client, run_id, TABLE, hint=LIST_RUNS)
    except InputError:
        _refuse_unfinished(client, run_id)
        raise
    return pd.DataFrame(content["data"], columns=content["columns"])


def _refuse_unfinished(client: MlflowClient, run_id: str) -> None:
    """Raise `InputError` if the run is an unfinished experiment."""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return
    if run.data.tags.get("fledge.kind") == "experiment":
        state = "still running, or killed" if run.info.status == "RUNNING" else run.info.status.lower()
        raise InputError(
            f"experiment {run_id} is unfinished ({state}): not all of its answers are recorded",
            hint=f"fledge experiment --resume {short_id(run_id)}",
        )


def load_comparison(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Return the result of `compare` in a run. Raises `InputError` if there is none."""
    return load_artifact(client, run_id, "comparison.json", hint=f"fledge compare {short_id(run_id)}")


def load_settings(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Return the settings of an experiment, with fixed prompt versions."""
    return load_artifact(client, run_id, CONFIG, hint=LIST_RUNS)


def log_evaluation(client: MlflowClient, run_id: str, content: str, passed: bool) -> None:
    """Record the result of `evaluate` in its run."""
    client.log_text(run_id, content, "evaluation.json")
    tag_run(client, run_id, {"fledge.kind": "evaluation", "fledge.passed": str(passed).lower()})


def load_evaluation(client: MlflowClient, run_id: str) -> dict[str, Any] | None:
    """Return the result of `evaluate` in a run, None if there is none."""
    try:
        return load_artifact(client, run_id, "evaluation.json", hint="")
    except InputError:
        return None


ARM_SETTINGS = ("model", "engine", "mode", "format", *(item.name for item in options(GenerationParams)))


class ArmSettings(NamedTuple):
    """Settings and metrics of one arm of an experiment.

    `prompt` is `name/version`, empty for a custom chain; `metrics` are means over questions. `format` is None in runs
    of older versions, which used the format that the template implies.
    """

    name: str
    prompt: str
    model: str
    model_digest: str
    generation: GenerationParams
    questions_digest: str = ""
    metrics: Mapping[str, float] = MappingProxyType({})
    format: Format | None = None


def load_arm(client: MlflowClient, run_id: str, arm: str | None = None) -> ArmSettings:
    """Return the settings of an experiment's arm; without a name, of its only one.

    Raises `InputError` if there is no such arm, or no name but several arms.
    """
    arms = _arm_runs(client, run_id)
    if arm is None and len(arms) != 1:
        raise InputError(f"run {run_id} has {len(arms)} arms", hint=f"--arm one of: {', '.join(arms)}")
    chosen = arm if arm is not None else next(iter(arms))
    if chosen not in arms:
        raise InputError(f"run {run_id} has no arm {arm!r}", hint=f"arms: {', '.join(arms) or 'none'}")
    run = arms[chosen]
    params = run.data.params
    given: dict[str, Any] = {item.name: params.get(item.name) for item in options(GenerationParams)}
    if (given["stop"] or "").startswith("["):
        given["stop"] = tuple(json.loads(given["stop"]))
    generation = load(GenerationParams, given).value
    return ArmSettings(
        chosen,
        params["prompt"],
        params["model"],
        params.get("model_digest", ""),
        generation,
        params.get("question_set_digest", ""),
        run.data.metrics,
        cast("Format | None", params.get("format") or None),
    )


def describe_arms(client: MlflowClient, run_id: str) -> list[ArmDescription]:
    """Return a description of each arm. A prompt above MLflow's limit is truncated and ends in ` ...`."""
    found = []
    for name, run in _arm_runs(client, run_id).items():
        params = run.data.params
        if "template" in params:
            system = f"system: {params['system']}\n" if params.get("system") else ""
            settings = {name: params[name] for name in ARM_SETTINGS if params.get(name)}
            text = system + params["template"] + (" ..." if len(params["template"]) >= MAX_PARAM_CHARACTERS else "")
            found.append(ArmDescription(name, params["prompt"], text, settings))
    return found


def _arm_runs(client: MlflowClient, run_id: str) -> dict[str, Run]:
    """Return the nested runs of an experiment by arm. Raises `InputError` if the experiment does not exist."""
    try:
        experiment = client.get_run(run_id).info.experiment_id
    except MlflowException:
        raise InputError(f"there is no run {run_id!r}", hint=LIST_RUNS) from None
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.data.tags["fledge.arm"]: run for run in nested if "fledge.arm" in run.data.tags}


def load_artifact(client: MlflowClient, run_id: str, artifact: str, *, hint: str) -> dict[str, Any]:
    """Return a JSON object in the artifacts of a run. Raises `InputError` if there is none of that name."""
    try:
        with scratch_folder() as folder:
            path = Path(client.download_artifacts(run_id, artifact, str(folder)))
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (MlflowException, OSError):
        raise InputError(f"there is no run {run_id!r} with {artifact}", hint=hint) from None
    return content


def tag_run(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    """Set tags of a run in one call."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
