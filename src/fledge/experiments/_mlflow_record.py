"""Record a running experiment in MLflow: traces during the run, tables and metrics at the end."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from fledge.core.types import Say
from fledge.experiments._mlflow_experiments import TABLE, create_dataset, tag_run
from fledge.experiments._mlflow_resources import Resources
from fledge.experiments.arms import Arm
from fledge.experiments.cells import Answer, trace_id
from fledge.experiments.journal import ExperimentPlan
from fledge.experiments.plots import plot_arms
from fledge.experiments.tables import arm_metrics, build_table
from fledge.scoring.judge import JUDGE, JudgeCounts
from fledge.tracking._mlflow_traces import (
    AssessmentRecord,
    NoTracesError,
    SpanRecord,
    TraceRecord,
    token_usage,
    write_traces,
)

METRICS_PER_CALL = 1000  # MLflow's limit


class ExperimentRecord:
    """The runs of one experiment. `send` and `finish` may be repeated without duplicates."""

    def __init__(self, client: MlflowClient, plan: ExperimentPlan, say: Say) -> None:
        self._client = client
        self._plan = plan
        self._say = say
        self._arms = {arm.name: arm for arm in plan.arms}
        self._questions = {item.id: item for item in plan.questions.questions}
        self._cell_runs: set[str] | None = None
        self._supports_traces = True
        self._resources = Resources()

    def resume(self) -> None:
        """Set all runs to RUNNING again."""
        for run_id in self._list_runs():
            self._client.update_run(run_id, status="RUNNING")

    def sample(self) -> None:
        """Sample the machine's load; to be called about once a second."""
        self._resources.sample()

    def send(self, answers: Sequence[Answer]) -> None:
        """Write the traces of answers, and their runs with `nested_cells`."""
        earlier = [
            trace_id(self._plan.run_id, answer.key, attempt)
            for answer in answers
            for attempt in range(1, answer.attempt)
        ]
        if self._supports_traces:
            try:
                write_traces(self._client, self._plan.experiment_id, [self._create_trace(answer) for answer in answers])
                if earlier:
                    self._client.delete_traces(self._plan.experiment_id, trace_ids=earlier)
            except NoTracesError as error:
                self._supports_traces = False
                self._say(f"{error}; the answers are in the tables")
        if self._plan.config.nested_cells:
            self._send_runs(answers)

    def finish(self, answers: Sequence[Answer], judge: JudgeCounts | None = None) -> None:
        """Log tables, metrics, the judge's counts and plots, and end all runs as FINISHED."""
        plan, table = self._plan, build_table(self._plan, answers)
        machine = self._resources.metrics()
        for arm in plan.arms:
            mine = table[table["arm"] == arm.name]
            self._log_table(arm.run_id, mine)
            self._client.log_figure(arm.run_id, plot_arms(mine), "arm.png")
            self._log_metrics(arm.run_id, [*self._create_metrics(arm_metrics(mine), arm), *machine])
        self._log_table(plan.run_id, table)
        self._client.log_figure(plan.run_id, plot_arms(table), "arms.png")
        own = [answer for answer in answers if not answer.reused_from]
        began = min((answer.started_ns for answer in own), default=0)
        ended = max((answer.ended_ns for answer in own), default=0)
        figures = {
            "cells": len(table),
            "failed": int((table["error"] != "").sum()),
            "success_rate": float((table["error"] == "").mean()),
            "reused": len(answers) - len(own),
            "seconds": (ended - began) / 1e9,
            **({f"judge_{name}": count for name, count in judge._asdict().items()} if judge else {}),
        }
        self._log_metrics(plan.run_id, [*self._create_metrics(figures), *machine])
        for run_id in self._list_runs():
            self._client.set_terminated(run_id, "FINISHED")

    def abort(self, status: str) -> None:
        """End all runs as `KILLED` or `FAILED`."""
        for run_id in self._list_runs():
            self._client.set_terminated(run_id, status)

    def _list_runs(self) -> list[str]:
        """Return the ids of all runs; the parent is last, so that it ends last."""
        return [*(arm.run_id for arm in self._plan.arms), self._plan.run_id]

    def _log_table(self, run_id: str, table: pd.DataFrame) -> None:
        content = json.loads(table.to_json(orient="split", index=False))
        self._client.log_dict(run_id, content, TABLE)
        tag_run(self._client, run_id, {"mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}])})

    def _create_metrics(self, values: Mapping[str, float], arm: Arm | None = None) -> list[Metric]:
        """Return metrics with the current time; if they are logged again, the later ones count."""
        now = int(time.time() * 1000)
        model = {}
        if arm and arm.model_id:
            used = create_dataset(self._plan.questions)
            model = {"model_id": arm.model_id, "dataset_name": used.name, "dataset_digest": used.digest}
        return [Metric(name, float(value), now, 0, **model) for name, value in values.items()]

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])

    def _send_runs(self, answers: Sequence[Answer]) -> None:
        if self._cell_runs is None:
            self._cell_runs = self._find_cell_runs()
        known, self._cell_runs = self._cell_runs, None  # after a failure, search again
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
            tags=[RunTag("fledge.trace", trace_id(plan.run_id, answer.key, answer.attempt))],
        )
        self._client.set_terminated(run.info.run_id, "FAILED" if answer.error else "FINISHED", end_time=now)

    def _find_cell_runs(self) -> set[str]:
        """Return the cells that have a run. Deletes runs that were not ended, since they are incomplete."""
        found, interrupted = set[str](), list[str]()
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
                        interrupted.append(run.info.run_id)
                    else:
                        found.add(run.data.tags["fledge.cell"])
                token = page.token or ""
        for run_id in interrupted:  # afterwards, since deleting shifts the pages
            self._client.delete_run(run_id)
        return found

    def _create_trace(self, answer: Answer) -> TraceRecord:
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
            children=(*_prompt_spans(answer, arm, question.variables), *_chain_spans(answer.steps, ""), score),
        )
        tags = {
            "fledge.arm": answer.arm,
            "fledge.question_id": answer.question_id,
            "fledge.sample": str(answer.sample),
            **({"fledge.reused_from": answer.reused_from} if answer.reused_from else {}),
            "fledge.experiment": self._plan.run_id,
        }
        metadata = {"mlflow.sourceRun": arm.run_id, "mlflow.trace.session": self._plan.run_id}
        if arm.model_id:
            metadata["mlflow.modelId"] = arm.model_id
        return TraceRecord(
            trace_id(self._plan.run_id, answer.key, answer.attempt),
            root,
            tags,
            arm.label,
            metadata,
            tuple(_create_assessments(answer, self._plan.config.judging.judge)),
        )


def _create_assessments(answer: Answer, judge: str) -> Iterator[AssessmentRecord]:
    """Yield an assessment for each score of an answer, and for each error of a scorer."""
    for name in (*answer.scores, *answer.score_errors):
        yield AssessmentRecord(
            name,
            answer.scores.get(name),
            answer.rationales.get(name, ""),
            answer.score_errors.get(name, ""),
            judge if name == JUDGE else "",
        )


def _prompt_spans(answer: Answer, arm: Arm, values: dict[str, str]) -> list[SpanRecord]:
    """Return the spans of a prompt's steps; those of a custom chain come from MLflow's tracing."""
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
    pinned = {"fledge.prompt": arm.prompt.uri, "fledge.format": arm.format}
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


def _chain_spans(steps: Sequence[dict[str, Any]], parent: str) -> tuple[SpanRecord, ...]:
    return tuple(
        SpanRecord(
            step["name"],
            step["kind"],
            step["start_ns"],
            step["end_ns"],
            step["inputs"],
            step["outputs"],
            error=step["error"],
            children=_chain_spans(steps, step["id"]),
            id=step["id"],
        )
        for step in steps
        if step["parent"] == parent
    )
