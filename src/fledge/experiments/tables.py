"""An experiment's answers as a table, and the figures of its arms."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from fledge.experiments.cells import Answer, trace_id
from fledge.experiments.journal import ExperimentPlan
from fledge.scoring.surface import question_quality

# Numeric columns that are not scores.
FIGURES = ("sample", "prompt_tokens", "completion_tokens", "ttft_s", "latency_s", "cost", "turns_left_out")


def build_table(plan: ExperimentPlan, answers: Sequence[Answer]) -> pd.DataFrame:
    """Return a row for each cell, ordered by question, arm and sample."""
    places = {item.id: place for place, item in enumerate(plan.questions.questions)}
    arms = {arm.name: place for place, arm in enumerate(plan.arms)}
    ordered = sorted(answers, key=lambda row: (places[row.question_id], arms[row.arm], row.sample))
    questions = {item.id: item for item in plan.questions.questions}
    rare = [name for name in ("cost", "turns_left_out") if any(getattr(answer, name) for answer in answers)]
    has_errors = any(answer.score_errors for answer in answers)
    rows: list[dict[str, Any]] = []
    for answer in ordered:
        question = questions[answer.question_id]
        rows.append(
            {
                "question_id": question.id,
                "question": question.question,
                "topic": question.topic,
                "reference": question.reference,
                "arm": answer.arm,
                "sample": answer.sample,
                "answer": answer.text,
                "error": answer.error,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "ttft_s": answer.ttft_s,
                "latency_s": answer.latency_s,
                **{name: getattr(answer, name) for name in rare},
                **answer.scores,
                **({"score_errors": json.dumps(answer.score_errors)} if has_errors else {}),
                "trace_id": trace_id(plan.run_id, answer.key, answer.attempt),
            }
        )
    return pd.DataFrame(rows)


def scores_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return an experiment's table as comparisons need it, with failed answers as the metric `error_rate`."""
    failed = (table["error"] != "").astype(float)
    return table.rename(columns={"question": "text", "question_id": "question"}).assign(error_rate=failed)


def arm_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return figures of one arm's rows: their number, the means of all scores, and times in seconds, tokens and cost.

    `effectiveness` is the success rate times the mean response quality, `NAME_failed` a scorer's number of failures.
    """
    good = table[table["error"] == ""]
    success = len(good) / len(table) if len(table) else 0.0
    metrics = {
        "cells": float(len(table)),
        "success_rate": success,
        "question_quality": float(table["question"].map(question_quality).mean()),
    }
    for name in good.select_dtypes("number").columns:
        if name not in FIGURES and good[name].notna().any():
            metrics[name] = float(good[name].mean())
    if "response_quality" in metrics:
        metrics["effectiveness"] = success * metrics["response_quality"]
    failures: Iterable[str] = good.get("score_errors", ())
    for name, count in Counter(name for text in failures for name in json.loads(text)).items():
        metrics[f"{name}_failed"] = float(count)
    latency, ttft = good["latency_s"].dropna().astype(float), good["ttft_s"].dropna().astype(float)
    if len(latency):
        metrics |= {"latency_mean_s": float(latency.mean()), "latency_p95_s": float(latency.quantile(0.95))}
    if len(ttft):
        metrics["ttft_mean_s"] = float(ttft.mean())
    for name in ("prompt_tokens", "completion_tokens", *(["cost"] if "cost" in good else [])):
        metrics[name] = float(good[name].astype(float).sum())  # sum() ignores NaN
    return metrics
