"""`compare`: verdicts on the arms of an experiment, or of a table of scores."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fledge.comparison.arms import ArmDescription
from fledge.comparison.findings import Comparison
from fledge.comparison.options import CompareOptions
from fledge.comparison.table import by_question, pick_metric, read_scores
from fledge.comparison.verdict import Direction, baseline_first, compare_scores
from fledge.comparison.warnings import caveat, find_warnings
from fledge.core.errors import InputError
from fledge.core.jsonable import jsonable
from fledge.core.settings import Workspace
from fledge.core.types import Progress, no_progress
from fledge.experiments.run_ids import short_id
from fledge.experiments.tables import scores_of
from fledge.scoring.catalogue import direction_of, is_known_metric, range_of
from fledge.scoring.judge import PREFERENCE, JudgeConfig
from fledge.tracking.connection import connect


def compare(
    run_id: str | None = None,
    *,
    scores: str | pd.DataFrame | None = None,
    options: CompareOptions | None = None,
    judging: JudgeConfig | None = None,
    report: Path | None = None,
    workspace: Workspace | None = None,
    progress: Progress = no_progress,
) -> Comparison:
    """Return a verdict for each pair of arms of the run `run_id`, or of `scores`, a CSV file or table.

    `run_id` may be a unique prefix, or `last` for the newest experiment. The result is stored in the run as
    `comparison.json` and as a page, `comparison.html`; `report` is a file for a copy of the page.
    With `judging` a judge decides which of two answers is better, and the metric is `preference`; `progress(done,
    total, what)` is called after each pair.
    """
    options = options or CompareOptions()
    if judging is not None and judging.judge:
        options = _apply_judge(options, scores)
    if (run_id is None) == (scores is None):
        raise InputError(
            "give either a run or a file of scores", hint="fledge compare RUN, or fledge compare --scores F.csv"
        )
    if scores is not None:
        table = read_scores(scores)
        result = _compare(table, options, None)
        if report is not None:
            _write(_render_page(result, table), report)
        return result

    from fledge.experiments._mlflow_experiments import describe_arms, load_plan, load_table, tag_run
    from fledge.experiments._mlflow_runs import COMPARED, find_run

    workspace = workspace or Workspace()
    client = connect(workspace.tracking)
    run_id = find_run(client, str(run_id), COMPARED)
    table = scores_of(load_table(client, run_id))
    planned = load_plan(client, run_id)
    options = _apply_plan(options, planned)
    notes: list[str] = []
    if judging is not None and judging.judge:
        from fledge.experiments._mlflow_preferences import with_preferences

        baseline = baseline_first(list(dict.fromkeys(table["arm"])), options.baseline)[0]
        folder = workspace.state_dir / "experiments" / run_id
        table, notes = with_preferences(client, run_id, folder, table, baseline, judging, progress)
    elif options.metric == PREFERENCE:
        raise InputError(
            f"--metric {PREFERENCE} needs a judge", hint=f"fledge compare {short_id(run_id)} --judge URL#NAME"
        )
    result = _compare(table, options, planned)
    result = replace(result, notes=(*notes, *result.notes))
    page = _render_page(result, table, run_id, describe_arms(client, run_id))
    if report is not None:
        _write(page, report)
    client.log_text(run_id, page, "comparison.html")
    client.log_text(run_id, json.dumps(jsonable(result.as_dict()), indent=2), "comparison.json")
    tag_run(client, run_id, {"fledge.winner": result.winner or "none", "fledge.compared_metric": result.metric})
    return result


class Spread(NamedTuple):
    """The spread of the differences between two arms over questions: their standard deviation, or for pass/fail the
    share of questions that only one arm passes; the other is None."""

    metric: str
    sd: float | None
    disagreement: float | None


def observed_spread(run_id: str, metric: str | None = None, *, workspace: Workspace | None = None) -> Spread:
    """Return the largest spread between the first arm of a run and any other, by `metric`, else the planned one.

    Raises `InputError` for an unknown run or metric, or a run with one arm.
    """
    from fledge.experiments._mlflow_experiments import load_plan, load_table
    from fledge.experiments._mlflow_runs import COMPARED, find_run

    client = connect((workspace or Workspace()).tracking)
    run_id = find_run(client, run_id, COMPARED)
    table = scores_of(load_table(client, run_id))
    planned = (load_plan(client, run_id) or {}).get("metric")
    scores = by_question(table, pick_metric(table, metric or planned or None))
    first, *others = scores.arms
    samples = [scores.pair(other, first) for other in others]
    if not samples:
        raise InputError(f"run {run_id} has one arm, but a spread needs two", hint="name another run")
    if not any(np.ptp(sample.differences) for sample in samples):
        what = f"run {run_id} has no spread: its arms differ by the same {scores.metric} on every question"
        raise InputError(what, hint="give the spread with --sd")
    if scores.passes:
        disagreement = max(float(np.mean(sample.differences != 0)) for sample in samples)
        return Spread(scores.metric, None, disagreement)
    sd = max(float(np.std(sample.differences, ddof=1)) for sample in samples if len(sample.differences) > 1)
    return Spread(scores.metric, sd, None)


def _apply_judge(options: CompareOptions, scores: object) -> CompareOptions:
    """Return the options with a judge's metric. Raises `InputError` for options that exclude a judge."""
    if scores is not None:
        raise InputError("a judge needs answers, but --scores has only scores", hint="fledge compare RUN --judge URL")
    if options.all_pairs:
        hint = "leave out --all-pairs, or name another --baseline"
        raise InputError("--judge and --all-pairs exclude each other: a judge compares with the baseline", hint=hint)
    if options.metric not in (None, PREFERENCE):
        hint = "leave out --metric; to grade each answer: fledge experiment --judge URL"
        raise InputError(f"with --judge the metric is {PREFERENCE}, not {options.metric}", hint=hint)
    return replace(options, metric=PREFERENCE)


def _compare(table: pd.DataFrame, options: CompareOptions, planned: dict[str, Any] | None) -> Comparison:
    metric = pick_metric(table, options.metric)
    planned_directions: dict[str, bool | None] = (planned or {}).get("directions", {})

    def direction(name: str) -> bool | None:
        return planned_directions.get(name, direction_of(name))

    way = _resolve_direction(
        metric, options.higher_is_better, direction, is_known=metric in planned_directions or is_known_metric(metric)
    )
    found = compare_scores(
        table,
        metric,
        options,
        higher_is_better=way,
        direction_of=direction,
        range_of=range_of,
        planned=planned,
    )
    return _add_warnings(found, table)


def _add_warnings(result: Comparison, table: pd.DataFrame) -> Comparison:
    found = find_warnings(table)
    won = next((pair for pair in result.pairs if (pair.a, pair.b) == (result.winner, result.baseline)), None)
    return replace(result, warnings=found, caveat=caveat(won, table, result.metric, found) if won else "")


def _render_page(
    result: Comparison, table: pd.DataFrame, run_id: str = "", descriptions: Sequence[ArmDescription] = ()
) -> str:
    from fledge.comparison.report import render_report  # loads matplotlib, which takes a second

    return render_report(result, table, run_id=run_id, descriptions=descriptions)


def _write(page: str, report: Path) -> None:
    try:
        report.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{report}: {error.strerror}", hint="--report FILE.html") from None


def _apply_plan(options: CompareOptions, planned: dict[str, Any] | None) -> CompareOptions:
    """Return the options, with pre-registered values for those that are not set."""
    if not planned:
        return options
    metric = options.metric or planned["metric"] or None
    margin = options.margin
    if margin is None and metric == planned["metric"]:
        margin = planned["margin"]
    return replace(options, metric=metric, margin=margin, alpha=options.alpha or planned["alpha"])


def _resolve_direction(metric: str, given: bool | None, direction: Direction, *, is_known: bool) -> bool | None:
    """Return the metric's known direction, else the given one, else higher. Raises `InputError` if they conflict."""
    if not is_known:
        return True if given is None else given
    way = direction(metric)
    if given is not None and way is not None and given != way:
        hint = f"leave out --{'lower' if way else 'higher'}-is-better"
        raise InputError(f"{metric} is better when {'higher' if way else 'lower'}", hint=hint)
    return way if given is None else given
