"""`compare`: verdicts on a recorded experiment, or on a table of scores in a file."""

import json
from dataclasses import dataclass

import pandas as pd

from fledge.comparison.verdict import Comparison, compare_scores, pick_metric, read_scores
from fledge.core.errors import InputError
from fledge.core.jsonable import jsonable
from fledge.core.settings import Workspace
from fledge.scoring.scorers import SCORERS

LOWER_IS_BETTER = ("latency_s", "ttft_s")
NEITHER_IS_BETTER = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class CompareOptions:
    """How to compare; see `compare_scores`."""

    metric: str | None = None
    baseline: str | None = None
    margin: float | None = None
    all_pairs: bool = False


def compare(
    workspace: Workspace, run_id: str | None = None, *, scores: str | None = None, options: CompareOptions | None = None
) -> Comparison:
    """Verdicts for each pair of arms of the run `run_id` (kept there as `comparison.json`) or of the file `scores`."""
    options = options or CompareOptions()
    if (run_id is None) == (scores is None):
        raise InputError("name a run, or a file of scores", hint="fledge compare RUN, or fledge compare --scores F.csv")
    if scores is not None:
        return _compare(read_scores(scores), options)

    from fledge.experiments._mlflow import load_table, tag_run
    from fledge.tracking._mlflow import connect

    client = connect(workspace.tracking)
    table = load_table(client, str(run_id))
    result = _compare(table.drop(columns="question").rename(columns={"question_id": "question"}), options)
    client.log_text(str(run_id), json.dumps(jsonable(result.as_dict()), indent=2), "comparison.json")
    tag_run(client, str(run_id), {"fledge.winner": result.winner or "none", "fledge.compared_metric": result.metric})
    return result


def _compare(table: pd.DataFrame, options: CompareOptions) -> Comparison:
    metric = pick_metric(table, options.metric)
    return compare_scores(
        table,
        metric,
        baseline=options.baseline,
        all_pairs=options.all_pairs,
        margin=options.margin,
        higher_is_better=_higher_is_better(metric),
    )


def _higher_is_better(metric: str) -> bool | None:
    """By the scorer, or by name; a metric that we do not know is taken as better when higher."""
    if metric in SCORERS:
        return SCORERS[metric].higher_is_better
    return None if metric in NEITHER_IS_BETTER else metric not in LOWER_IS_BETTER
