"""An experiment in MLflow: a parent run, a nested run for each arm, a trace for each cell, and the tables back."""

import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException

from fledge.core.errors import InputError
from fledge.core.settings import load, options
from fledge.experiments._mlflow_resources import Resources
from fledge.experiments.arms import Arm
from fledge.experiments.cells import Answer
from fledge.experiments.config import ExperimentConfig, as_param
from fledge.experiments.journal import Plan
from fledge.experiments.plots import plot_arms
from fledge.experiments.recorder import Say
from fledge.experiments.tables import arm_metrics, build_table
from fledge.models.engine import EngineInfo, GenerationParams
from fledge.models.selection import RemoteModel
from fledge.models.snapshot import Snapshot
from fledge.prompts.prompt import PromptStore
from fledge.questions.question_set import QuestionSet
from fledge.tracking._mlflow import experiment_id
from fledge.tracking._mlflow_traces import NoTracesError, SpanRecord, TraceRecord, token_usage, write_traces

TABLE = "answers.json"
CONFIG = "config.json"
# MLflow's limits.
METRICS_AT_ONCE = 1000
LONGEST_PARAM = 6000
# A run's param, and the field of a snapshot that it holds.
MODEL_PARAMS = {
    "model_digest": "digest",
    "model_commit": "commit",
    "model_architecture": "architecture",
    "model_parameters": "parameters",
    "model_licence": "licence",
}
Models = Mapping[str, tuple[Snapshot | RemoteModel, EngineInfo]]


class ExperimentRecord:
    """The runs of one experiment. `send` and `finish` may be repeated: what is written twice is there once."""

    def __init__(self, client: MlflowClient, plan: Plan, say: Say) -> None:
        self._client = client
        self._plan = plan
        self._say = say
        self._arms = {arm.name: arm for arm in plan.arms}
        self._questions = {item.id: item for item in plan.questions.questions}
        self._cell_runs: set[str] | None = None
        self._keeps_traces = True
        self._resources = Resources()

    def go_on(self) -> None:
        """Set all runs to RUNNING again."""
        for run_id in self._runs():
            self._client.update_run(run_id, status="RUNNING")

    def sample(self) -> None:
        """Look at the machine's load; call it about once a second."""
        self._resources.sample()

    def send(self, answers: Sequence[Answer]) -> None:
        """Write the traces of some answers, and their runs where each has one."""
        earlier = [
            answer.trace_id(self._plan.run_id, attempt) for answer in answers for attempt in range(1, answer.attempt)
        ]
        if self._keeps_traces:
            try:
                write_traces(self._client, self._plan.experiment_id, [self._trace(answer) for answer in answers])
                if earlier:
                    self._client.delete_traces(self._plan.experiment_id, trace_ids=earlier)
            except NoTracesError as error:
                self._keeps_traces = False
                self._say(f"the tracking server keeps no traces ({error}); answers are in its tables")
        if self._plan.config.nested_cells:
            self._send_runs(answers)

    def finish(self, answers: Sequence[Answer]) -> None:
        """Log tables, metrics and the plot, and end all runs as FINISHED."""
        plan, table = self._plan, build_table(self._plan, answers)
        machine = self._resources.metrics()
        for arm in plan.arms:
            mine = table[table["arm"] == arm.name]
            self._log_table(arm.run_id, mine)
            self._client.log_figure(arm.run_id, plot_arms(mine), "arm.png")
            self._log_metrics(arm.run_id, [*self._metrics(arm_metrics(mine), arm), *machine])
        self._log_table(plan.run_id, table)
        self._client.log_figure(plan.run_id, plot_arms(table), "arms.png")
        began, ended = min(answer.started_ns for answer in answers), max(answer.ended_ns for answer in answers)
        figures = {
            "cells": len(table),
            "failed": int((table["error"] != "").sum()),
            "success_rate": float((table["error"] == "").mean()),
            "seconds": (ended - began) / 1e9,
        }
        self._log_metrics(plan.run_id, [*self._metrics(figures), *machine])
        for run_id in self._runs():
            self._client.set_terminated(run_id, "FINISHED")

    def abort(self, status: str) -> None:
        """End all runs as `KILLED` or `FAILED`."""
        for run_id in self._runs():
            self._client.set_terminated(run_id, status)

    def _runs(self) -> list[str]:
        """The arms' first: the parent ends last."""
        return [*(arm.run_id for arm in self._plan.arms), self._plan.run_id]

    def _log_table(self, run_id: str, table: pd.DataFrame) -> None:
        content = json.loads(table.to_json(orient="split", index=False))
        self._client.log_dict(run_id, content, TABLE)
        tag_run(self._client, run_id, {"mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}])})

    def _metrics(self, values: Mapping[str, float], arm: Arm | None = None) -> list[Metric]:
        """Metrics of this moment: where they are logged once more, the later ones count."""
        now = int(time.time() * 1000)
        about = {
            "dataset_name": _dataset(self._plan.questions).name,
            "dataset_digest": _dataset(self._plan.questions).digest,
        }
        model = {"model_id": arm.model_id, **about} if arm and arm.model_id else {}
        return [Metric(name, float(value), now, 0, **model) for name, value in values.items()]

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])

    def _send_runs(self, answers: Sequence[Answer]) -> None:
        if self._cell_runs is None:
            self._cell_runs = self._known_cell_runs()
        known, self._cell_runs = self._cell_runs, None  # if this fails half way, look again
        for answer in answers:
            name = f"{answer.key}:{answer.attempt}"
            if name not in known:
                self._send_run(answer, name)
                known.add(name)
        self._cell_runs = known

    def _send_run(self, answer: Answer, name: str) -> None:
        plan, arm = self._plan, self._arms[answer.arm]
        run = self._client.create_run(
            plan.experiment_id,
            start_time=answer.started_ns // 1_000_000,
            run_name=f"{answer.arm}-{answer.question_id}-{answer.sample}",
            tags={"fledge.kind": "cell", "fledge.cell": name, "mlflow.parentRunId": arm.run_id},
        )
        params = {
            "question_id": answer.question_id,
            "sample": str(answer.sample),
            "prompt": arm.label,
            "model": arm.model,
        }
        figures = {"success": float(not answer.error), **answer.scores}
        for figure in ("latency_s", "ttft_s", "prompt_tokens", "completion_tokens"):
            if (value := getattr(answer, figure)) is not None:
                figures[figure] = value
        now = answer.ended_ns // 1_000_000
        self._client.log_batch(
            run.info.run_id,
            params=[Param(key, value) for key, value in params.items()],
            metrics=[Metric(key, float(value), now, 0) for key, value in figures.items()],
            tags=[RunTag("fledge.trace", answer.trace_id(plan.run_id))],
        )
        self._client.set_terminated(run.info.run_id, "FAILED" if answer.error else "FINISHED", end_time=now)

    def _known_cell_runs(self) -> set[str]:
        """Runs of cells that are there already; one that was not ended is no run of ours that is whole."""
        found: set[str] = set()
        for arm in self._plan.arms:
            token = None
            while token != "":
                page = self._client.search_runs(
                    [self._plan.experiment_id],
                    f"tags.`mlflow.parentRunId` = '{arm.run_id}'",
                    max_results=1000,
                    page_token=token,
                )
                for run in page:
                    if run.info.status == "RUNNING":
                        self._client.delete_run(run.info.run_id)
                    else:
                        found.add(run.data.tags["fledge.cell"])
                token = page.token or ""
        return found

    def _trace(self, answer: Answer) -> TraceRecord:
        arm, question = self._arms[answer.arm], self._questions[answer.question_id]
        judged = {"answer": answer.text, "reference": question.reference}
        score = SpanRecord("score", "EVALUATOR", answer.generated_ns, answer.ended_ns, judged, answer.scores)
        root = SpanRecord(
            "cell",
            "CHAIN",
            answer.started_ns,
            answer.ended_ns,
            question.variables,
            answer.text,
            error=answer.error,
            children=(*_steps(answer, arm, question.variables), *_nested(answer.steps, ""), score),
        )
        tags = {
            "fledge.arm": answer.arm,
            "fledge.question_id": answer.question_id,
            "fledge.sample": str(answer.sample),
            "fledge.experiment": self._plan.run_id,
        }
        metadata = {"mlflow.sourceRun": arm.run_id, "mlflow.trace.session": self._plan.run_id}
        if arm.model_id:
            metadata["mlflow.modelId"] = arm.model_id
        return TraceRecord(answer.trace_id(self._plan.run_id), root, tags, arm.label, metadata)


def _steps(answer: Answer, arm: Arm, values: dict[str, str]) -> list[SpanRecord]:
    """What fledge knows of the steps; of a chain of the user's own, MLflow's tracing tells."""
    if arm.prompt is None:
        return []
    figures: dict[str, Any] = {}
    if answer.completion_tokens is not None and answer.finish_reason:
        seconds = answer.latency_s or 0.0
        figures = token_usage(answer.prompt_tokens or 0, answer.completion_tokens) | {
            "fledge.ttft_s": answer.ttft_s,
            "fledge.tokens_per_s": answer.completion_tokens / seconds if seconds else 0.0,
            "fledge.finish_reason": answer.finish_reason,
            "fledge.turns_left_out": answer.turns_left_out or None,
        }
    settings = {"mlflow.llm.model": arm.model, **arm.params(answer.sample).__dict__}
    asked = answer.prompt_text
    pinned = {"fledge.prompt": arm.prompt.uri}
    return [
        SpanRecord("prompt", "PARSER", answer.started_ns, answer.filled_ns, values, asked, pinned),
        SpanRecord(
            "tokenize", "PARSER", answer.filled_ns, answer.submitted_ns, asked, {"tokens": answer.prompt_tokens}
        ),
        SpanRecord(
            "generate",
            "LLM",
            answer.submitted_ns,
            answer.generated_ns,
            asked,
            answer.text,
            {**figures, **settings},
            answer.error,
        ),
    ]


def _nested(steps: Sequence[dict[str, Any]], parent: str) -> tuple[SpanRecord, ...]:
    return tuple(
        SpanRecord(
            step["name"],
            step["kind"],
            step["start_ns"],
            step["end_ns"],
            step["inputs"],
            step["outputs"],
            error=step["error"],
            children=_nested(steps, step["id"]),
        )
        for step in steps
        if step["parent"] == parent
    )


def start_runs(
    client: MlflowClient,
    config: ExperimentConfig,
    arms: Sequence[Arm],
    questions: QuestionSet,
    models: Models,
    store: PromptStore,
) -> Plan:
    """Create the parent run and a nested run and LoggedModel for each arm, with params, tags and the question set."""
    experiment = experiment_id(client, config.experiment_name)
    common = {
        **config.as_params(),
        "question_set_digest": questions.digest,
        "question_count": str(len(questions.questions)),
    }
    first, info = next(iter(models.values()), (None, None))
    about = _model_params(first, info)
    tags = {**config.run_tags, "fledge.kind": "experiment"}
    name = f"experiment-{time.strftime('%Y%m%d-%H%M%S')}"
    run_id = _create(client, experiment, name, {**common, **about}, tags, questions)
    client.log_dict(run_id, _pinned(config, arms), CONFIG)
    started = []
    for arm in arms:
        params = {
            **common,
            **_model_params(*models.get(arm.model, (None, None))),
            "model": arm.model,
            **{key: as_param(value) for key, value in arm.generation.__dict__.items()},
            "arm_digest": arm.digest,
            "prompt": arm.label,
            "template": arm.prompt.text if arm.prompt else arm.chain,
        }
        tags = {
            **config.run_tags,
            "fledge.kind": "arm",
            "fledge.arm": arm.name,
            "mlflow.parentRunId": run_id,
        }
        arm_run = _create(client, experiment, arm.name, params, tags, questions)
        model_id = _logged_model(client, experiment, replace(arm, run_id=arm_run), params)
        if arm.prompt is not None:
            store.link_to_run(arm.prompt, arm_run)
            if model_id:
                client.link_prompt_version_to_model(arm.prompt.name, str(arm.prompt.version), model_id)
        started.append(replace(arm, run_id=arm_run, model_id=model_id))
    mode = info.mode if info else "exact"
    return Plan(run_id, experiment, config, tuple(started), questions, mode)


def _create(
    client: MlflowClient,
    experiment: str,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    questions: QuestionSet,
) -> str:
    run_id = str(client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id)
    client.log_batch(run_id, params=[Param(key, value[:LONGEST_PARAM]) for key, value in params.items()])
    used = DatasetInput(_dataset(questions), tags=[InputTag("mlflow.data.context", "eval")])
    client.log_inputs(run_id, datasets=[used])
    return run_id


def _dataset(questions: QuestionSet) -> Dataset:
    return Dataset(
        name=re.split(r"[\\/]", questions.source)[-1],
        digest=questions.digest[:8],  # as short as MLflow's own
        source_type="local",
        source=json.dumps({"uri": questions.source}),
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


def _logged_model(client: MlflowClient, experiment: str, arm: Arm, params: Mapping[str, str]) -> str:
    """What answers in an arm, as MLflow's LoggedModel; empty where the server knows none."""
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


def _pinned(config: ExperimentConfig, arms: Sequence[Arm]) -> dict[str, Any]:
    """The configuration with the prompt versions that were asked: repeating it asks the same ones."""
    content = config.as_dict()
    labels = [arm.label for arm in arms if arm.prompt]
    if config.arms:
        content["arms"] = [{**arm, "prompt": label} for arm, label in zip(content["arms"], labels, strict=True)]
    else:
        content["prompts"] = list(dict.fromkeys(labels))
    return content


def load_table(client: MlflowClient, run_id: str) -> pd.DataFrame:
    """The table of answers of an experiment's parent run: one row for each cell. Raises `InputError` if it has none."""
    content = _load(client, run_id, TABLE, hint="name the run_id of an experiment, as fledge experiment prints it")
    return pd.DataFrame(content["data"], columns=content["columns"])


def load_comparison(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """What `compare` left in a run. Raises `InputError` if it was never compared."""
    return _load(client, run_id, "comparison.json", hint=f"fledge compare {run_id}")


def load_settings(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """The settings that an experiment was started with, its prompts pinned to the versions that were asked."""
    return _load(client, run_id, CONFIG, hint="name the run_id of an experiment, as fledge experiment prints it")


class ArmSettings(NamedTuple):
    """What one arm of an experiment asked with; `prompt` as `name/version`, empty for a chain of the user's own."""

    prompt: str
    model: str
    generation: GenerationParams


def load_arm(client: MlflowClient, run_id: str, arm: str) -> ArmSettings:
    """What the arm `arm` of an experiment asked with."""
    params = _arm_runs(client, run_id)[arm].data.params
    generation = load(GenerationParams, {item.name: params.get(item.name) for item in options(GenerationParams)}).value
    return ArmSettings(params["prompt"], params["model"], generation)


def load_prompt_labels(client: MlflowClient, run_id: str) -> dict[str, str]:
    """For each arm of an experiment the prompt version that it asked with, as `name/version`."""
    return {name: run.data.params["prompt"] for name, run in _arm_runs(client, run_id).items()}


def _arm_runs(client: MlflowClient, run_id: str) -> dict[str, Any]:
    experiment = client.get_run(run_id).info.experiment_id
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.data.tags["fledge.arm"]: run for run in nested}


def _load(client: MlflowClient, run_id: str, artifact: str, *, hint: str) -> dict[str, Any]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(client.download_artifacts(run_id, artifact, folder))
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (MlflowException, OSError):
        raise InputError(f"there is no run {run_id!r} with {artifact}", hint=hint) from None
    return content


def tag_run(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    """Set tags of a run in one call."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
