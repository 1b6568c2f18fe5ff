"""The runs of an experiment under way: traces as answers come, tables and metrics at the end."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from fledge.core.types import Say
from fledge.experiments._mlflow_experiments import TABLE, dataset, tag_run
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

METRICS_AT_ONCE = 1000  # MLflow's limit


class ExperimentRecord:
    """The runs of one experiment. `send` and `finish` may be repeated: what is written twice is there once."""

    def __init__(self, client: MlflowClient, plan: ExperimentPlan, say: Say) -> None:
        self._client = client
        self._plan = plan
        self._say = say
        self._arms = {arm.name: arm for arm in plan.arms}
        self._questions = {item.id: item for item in plan.questions.questions}
        self._cell_runs: set[str] | None = None
        self._keeps_traces = True
        self._resources = Resources()

    def resume(self) -> None:
        """Set all runs to RUNNING again."""
        for run_id in self._runs():
            self._client.update_run(run_id, status="RUNNING")

    def sample(self) -> None:
        """Look at the machine's load; call it about once a second."""
        self._resources.sample()

    def send(self, answers: Sequence[Answer]) -> None:
        """Write the traces of some answers, and their runs where each has one."""
        earlier = [
            trace_id(self._plan.run_id, answer.key, attempt)
            for answer in answers
            for attempt in range(1, answer.attempt)
        ]
        if self._keeps_traces:
            try:
                write_traces(self._client, self._plan.experiment_id, [self._trace(answer) for answer in answers])
                if earlier:
                    self._client.delete_traces(self._plan.experiment_id, trace_ids=earlier)
            except NoTracesError as error:
                self._keeps_traces = False
                self._say(f"{error}; the answers are in the tables")
        if self._plan.config.nested_cells:
            self._send_runs(answers)

    def finish(self, answers: Sequence[Answer], judge: JudgeCounts | None = None) -> None:
        """Log tables, metrics, what a judge did and the plot, and end all runs as FINISHED."""
        plan, table = self._plan, build_table(self._plan, answers)
        machine = self._resources.metrics()
        for arm in plan.arms:
            mine = table[table["arm"] == arm.name]
            self._log_table(arm.run_id, mine)
            self._client.log_figure(arm.run_id, plot_arms(mine), "arm.png")
            self._log_metrics(arm.run_id, [*self._metrics(arm_metrics(mine), arm), *machine])
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
        model = {}
        if arm and arm.model_id:
            used = dataset(self._plan.questions)
            model = {"model_id": arm.model_id, "dataset_name": used.name, "dataset_digest": used.digest}
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
            tags=[RunTag("fledge.trace", trace_id(plan.run_id, answer.key, answer.attempt))],
        )
        self._client.set_terminated(run.info.run_id, "FAILED" if answer.error else "FINISHED", end_time=now)

    def _known_cell_runs(self) -> set[str]:
        """Runs of cells that are there already; one that was not ended is no run of ours that is whole."""
        found, broken_off = set[str](), list[str]()
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
                        broken_off.append(run.info.run_id)
                    else:
                        found.add(run.data.tags["fledge.cell"])
                token = page.token or ""
        for run_id in broken_off:  # not sooner: what is gone shifts the pages
            self._client.delete_run(run_id)
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
            tuple(_assessments(answer, self._plan.config.judging.judge)),
        )


def _assessments(answer: Answer, judge: str) -> Iterator[AssessmentRecord]:
    """Each score of an answer, and each that a scorer failed to give."""
    for name in (*answer.scores, *answer.score_errors):
        yield AssessmentRecord(
            name,
            answer.scores.get(name),
            answer.rationales.get(name, ""),
            answer.score_errors.get(name, ""),
            judge if name == JUDGE else "",
        )


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
            id=step["id"],
        )
        for step in steps
        if step["parent"] == parent
    )
