"""An experiment in MLflow: a parent run, a nested run for each arm, a trace for each cell, and the tables back."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from fledge.core.errors import InputError
from fledge.core.settings import load, options
from fledge.experiments.cells import Answer
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.plots import plot_arms
from fledge.models.engine import EngineInfo
from fledge.models.selection import RemoteModel
from fledge.models.snapshot import Snapshot
from fledge.prompts._mlflow import Prompt
from fledge.questions.question_set import QuestionSet
from fledge.tracking._mlflow import experiment_id
from fledge.tracking._mlflow_traces import SpanRecord, TraceRecord, new_trace_id, token_usage, write_traces

TABLE = "answers.json"
# A run's param, and the field of a snapshot that it holds.
MODEL_PARAMS = {
    "model_digest": "digest",
    "model_commit": "commit",
    "model_architecture": "architecture",
    "model_parameters": "parameters",
    "model_licence": "licence",
}


@dataclass
class ExperimentRecord:
    """The runs of one experiment. `start` before the first answer, `add` with each group, `finish` or `abort` once."""

    client: MlflowClient
    config: ExperimentConfig
    prompts: Sequence[Prompt]
    run_id: str = ""
    arm_runs: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def start(self, model: Snapshot | RemoteModel, engine: EngineInfo, questions: QuestionSet) -> None:
        """Create the runs with their params and tags."""
        self.experiment_id = experiment_id(self.client, self.config.experiment_name)
        common = {
            **{key: value for key, value in self.config.as_dict().items() if key not in ("tracking_uri", "state")},
            "engine": engine.name,
            "engine_device": engine.device,
            "engine_reason": engine.reason,
            "mode": engine.mode,
            **({name: getattr(model, of) for name, of in MODEL_PARAMS.items()} if isinstance(model, Snapshot) else {}),
            "question_set_digest": questions.digest,
            "question_count": len(questions.questions),
        }
        self.run_id = self._create(
            f"experiment-{time.strftime('%Y%m%d-%H%M%S')}", common, {"fledge.kind": "experiment"}
        )
        for prompt in self.prompts:
            params = {**common, "prompt": prompt.label, "template": prompt.template}
            tags = {"fledge.kind": "arm", "fledge.arm": prompt.name, "mlflow.parentRunId": self.run_id}
            self.arm_runs[prompt.name] = self._create(prompt.name, params, tags)
            if prompt.stored is not None:
                self.client.link_prompt_version_to_run(self.arm_runs[prompt.name], prompt.stored)

    def add(self, answers: Sequence[Answer]) -> None:
        """Write the traces of some answers and keep their rows for the tables."""
        for prompt in self.prompts:
            mine = [answer for answer in answers if answer.cell.arm == prompt.name]
            traces = [_trace(answer, prompt) for answer in mine]
            write_traces(self.client, self.experiment_id, traces, run_id=self.arm_runs[prompt.name])
            self.rows += [_row(answer, trace.id) for answer, trace in zip(mine, traces, strict=True)]

    def finish(self) -> dict[str, dict[str, float]]:
        """Log tables, metrics and the plot, end all runs as FINISHED; returns the metrics of each arm."""
        places = {name: place for place, name in enumerate(self.arm_runs)}
        rows = sorted(self.rows, key=lambda row: (row["question_id"], places[row["arm"]], row["sample"]))
        table = pd.DataFrame(rows)
        seconds = time.monotonic() - self.started
        metrics = {name: _metrics(table[table["arm"] == name]) for name in self.arm_runs}
        for name, run_id in self.arm_runs.items():
            self.client.log_table(run_id, table[table["arm"] == name], TABLE)
            self._log_metrics(run_id, metrics[name])
            self.client.set_terminated(run_id, "FINISHED")
        self.client.log_table(self.run_id, table, TABLE)
        figure = plot_arms(table)
        self.client.log_figure(self.run_id, figure, "arms.png")
        failed = int((table["error"] != "").sum())
        self._log_metrics(self.run_id, {"cells": len(table), "failed": failed, "seconds": seconds})
        self.client.set_terminated(self.run_id, "FINISHED")
        return metrics

    def abort(self, status: str) -> None:
        """End all runs as `KILLED` or `FAILED`."""
        for run_id in [*self.arm_runs.values(), self.run_id]:
            if run_id:
                self.client.set_terminated(run_id, status)

    def _create(self, name: str, params: dict[str, Any], tags: dict[str, str]) -> str:
        run = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        self.client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
        return str(run.info.run_id)

    def _log_metrics(self, run_id: str, metrics: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()])


def load_table(client: MlflowClient, run_id: str) -> pd.DataFrame:
    """The table of answers of an experiment's parent run: one row for each cell. Raises `InputError` if it has none."""
    content = _load(client, run_id, TABLE, hint="name the run_id of an experiment, as fledge experiment prints it")
    return pd.DataFrame(content["data"], columns=content["columns"])


def load_comparison(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """What `compare` left in a run. Raises `InputError` if it was never compared."""
    return _load(client, run_id, "comparison.json", hint=f"fledge compare {run_id}")


def load_config(client: MlflowClient, run_id: str) -> ExperimentConfig:
    """The configuration that an experiment's run was started with; tracking URI and state folder are not kept there."""
    params = client.get_run(run_id).data.params
    return load(ExperimentConfig, {item.name: params.get(item.name) for item in options(ExperimentConfig)}).value


def load_prompt_labels(client: MlflowClient, run_id: str) -> dict[str, str]:
    """For each arm of an experiment the prompt version that it asked with, as `name/version`."""
    experiment = client.get_run(run_id).info.experiment_id
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.data.tags["fledge.arm"]: run.data.params["prompt"] for run in nested}


def _load(client: MlflowClient, run_id: str, artifact: str, *, hint: str) -> dict[str, Any]:
    try:
        uri = client.get_run(run_id).info.artifact_uri
        content: dict[str, Any] = mlflow.artifacts.load_dict(f"{uri}/{artifact}")
    except (MlflowException, OSError):
        raise InputError(f"there is no run {run_id!r} with {artifact}", hint=hint) from None
    return content


def tag_run(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    """Set tags of a run in one call."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _trace(answer: Answer, prompt: Prompt) -> TraceRecord:
    cell, done = answer.cell, answer.completion
    generation: dict[str, Any] = {"fledge.sample": cell.sample}
    if done:
        generation |= token_usage(done.prompt_tokens, done.completion_tokens)
        generation |= {
            "fledge.ttft_s": done.ttft_s,
            "fledge.tokens_per_s": done.completion_tokens / done.seconds if done.seconds else 0.0,
            "fledge.finish_reason": done.finish_reason,
        }
    values, text, error = cell.question.variables, answer.text, answer.error
    pinned, judged = {"fledge.prompt": prompt.uri}, {"answer": text, "reference": cell.question.reference}
    steps = (
        SpanRecord("prompt", "PARSER", answer.started_ns, answer.filled_ns, values, answer.prompt_text, pinned),
        SpanRecord(
            "generate", "LLM", answer.filled_ns, answer.generated_ns, answer.prompt_text, text, generation, error
        ),
        SpanRecord("score", "EVALUATOR", answer.generated_ns, answer.ended_ns, judged, answer.scores),
    )
    root = SpanRecord("cell", "CHAIN", answer.started_ns, answer.ended_ns, values, text, error=error, children=steps)
    tags = {"fledge.arm": cell.arm, "fledge.question_id": cell.question.id, "fledge.sample": str(cell.sample)}
    return TraceRecord(new_trace_id(), root, tags, prompt.stored)


def _row(answer: Answer, trace_id: str) -> dict[str, Any]:
    cell, done = answer.cell, answer.completion
    return {
        "question_id": cell.question.id,
        "question": cell.question.question,
        "topic": cell.question.topic,
        "reference": cell.question.reference,
        "arm": cell.arm,
        "sample": cell.sample,
        "answer": answer.text,
        "error": answer.error,
        "finish_reason": done.finish_reason if done else None,
        "prompt_tokens": done.prompt_tokens if done else None,
        "completion_tokens": done.completion_tokens if done else None,
        "ttft_s": done.ttft_s if done else None,
        "latency_s": done.seconds if done else None,
        **({"cost": done.usage.cost} if done and done.usage.cost else {}),
        **answer.scores,
        "trace_id": trace_id,
    }


def _metrics(table: pd.DataFrame) -> dict[str, float]:
    """Means of all scores, and what the answers cost."""
    good = table[table["error"] == ""]
    metrics = {"cells": float(len(table)), "success_rate": float((table["error"] == "").mean())}
    skip = {"sample", "prompt_tokens", "completion_tokens", "ttft_s", "latency_s", "cost"}
    for name in good.select_dtypes("number").columns:
        if name not in skip:
            metrics[name] = float(good[name].mean())
    if len(good):
        metrics |= {
            "latency_mean_s": float(good["latency_s"].mean()),
            "latency_p95_s": float(good["latency_s"].quantile(0.95)),
            "ttft_mean_s": float(good["ttft_s"].mean()),
            "prompt_tokens": float(good["prompt_tokens"].sum()),
            "completion_tokens": float(good["completion_tokens"].sum()),
            **({"cost": float(good["cost"].sum())} if "cost" in good else {}),
        }
    return metrics
