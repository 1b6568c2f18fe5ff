"""`compare`: verdicts on the arms of an experiment, or of a table of scores from elsewhere."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from fledge.comparison.table import pick_metric, read_scores
from fledge.comparison.verdict import CompareOptions, Comparison, compare_scores
from fledge.core.errors import InputError
from fledge.core.jsonable import jsonable
from fledge.core.settings import Workspace
from fledge.scoring.catalogue import direction_of, known


def compare(
    workspace: Workspace,
    run_id: str | None = None,
    *,
    scores: str | pd.DataFrame | None = None,
    options: CompareOptions | None = None,
    report: Path | None = None,
) -> Comparison:
    """Verdicts for each pair of arms of the run `run_id` or of the CSV file or table `scores`.

    A run keeps them as `comparison.json`, with a page to look at as `comparison.html`; `report` is a file for the page.
    """
    options = options or CompareOptions()
    if (run_id is None) == (scores is None):
        raise InputError("name a run, or a file of scores", hint="fledge compare RUN, or fledge compare --scores F.csv")
    if scores is not None:
        table = read_scores(scores)
        result = _compare(table, options, None)
        if report is not None:
            _write(_page(result, table), report)
        return result

    from fledge.experiments._mlflow import load_plan, load_table, tag_run
    from fledge.tracking._mlflow import connect

    client = connect(workspace.tracking)
    table = scores_of(load_table(client, str(run_id)))
    planned = load_plan(client, str(run_id))
    result = _compare(table, _as_planned(options, planned), planned)
    page = _page(result, table, str(run_id))
    if report is not None:
        _write(page, report)
    client.log_text(str(run_id), page, "comparison.html")
    client.log_text(str(run_id), json.dumps(jsonable(result.as_dict()), indent=2), "comparison.json")
    tag_run(client, str(run_id), {"fledge.winner": result.winner or "none", "fledge.compared_metric": result.metric})
    return result


def _compare(table: pd.DataFrame, options: CompareOptions, planned: dict[str, Any] | None) -> Comparison:
    metric = pick_metric(table, options.metric)
    way = _higher_is_better(metric, options.higher_is_better)
    return compare_scores(table, metric, options, higher_is_better=way, direction_of=direction_of, planned=planned)


def _page(result: Comparison, table: pd.DataFrame, run_id: str = "") -> str:
    from fledge.comparison.report import render_report  # matplotlib, which takes a second to load

    return render_report(result, table, run_id=run_id)


def _write(page: str, report: Path) -> None:
    try:
        report.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{report}: {error.strerror}", hint="--report FILE.html") from None


def scores_of(table: pd.DataFrame) -> pd.DataFrame:
    """An experiment's table as comparisons take it; failed answers make the metric `error_rate`."""
    failed = (table["error"] != "").astype(float)
    return table.rename(columns={"question": "text", "question_id": "question"}).assign(error_rate=failed)


def _as_planned(options: CompareOptions, planned: dict[str, Any] | None) -> CompareOptions:
    """What was laid down before the questions were asked, unless told otherwise."""
    if not planned:
        return options
    metric = options.metric or planned["metric"] or None
    margin = options.margin
    if margin is None and metric == planned["metric"]:
        margin = planned["margin"]
    return replace(options, metric=metric, margin=margin, alpha=options.alpha or planned["alpha"])


def _higher_is_better(metric: str, told: bool | None) -> bool | None:
    """As told, or as known; a metric of which neither is so is taken as better when higher."""
    if not known(metric):
        return True if told is None else told
    way = direction_of(metric)
    if told is not None and way is not None and told != way:
        hint = f"leave out --{'lower' if way else 'higher'}-is-better"
        raise InputError(f"{metric} is better when {'higher' if way else 'lower'}", hint=hint)
    return way if told is None else told
