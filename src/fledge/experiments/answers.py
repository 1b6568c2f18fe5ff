"""`answers`: list the answers of an experiment, optionally only wrong ones or worst first."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from fledge.core.errors import InputError
from fledge.core.notebook import as_html
from fledge.core.settings import Workspace
from fledge.core.texts import counted
from fledge.experiments.run_ids import LAST, short_id
from fledge.scoring.catalogue import RECORDED, RESERVED, direction_of
from fledge.scoring.judge import JUDGE
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    import pandas as pd

WRONG_BELOW = 0.5


@dataclass(frozen=True)
class AnswerRow:
    """One answer of an experiment. `id` is the question's; `error` is empty for a successful answer; `scores` holds
    only the scores it has."""

    id: str
    arm: str
    sample: int
    question: str
    reference: str | None
    answer: str
    finish_reason: str | None
    scores: dict[str, float]
    topic: str
    error: str
    trace_id: str


@dataclass(frozen=True)
class AnswerList:
    """The first of `total` answers of the run `run_id`. `metric` is the one that decides what is wrong, empty unless
    only wrong answers are listed; `unscored` counts answers left out because they lack that score."""

    run_id: str
    total: int
    metric: str
    unscored: int
    answers: tuple[AnswerRow, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_pandas(self) -> "pd.DataFrame":
        """Return a row for each answer, with a column for each score."""
        import pandas as pd

        rows = [asdict(row) for row in self.answers]
        scores = [row.pop("scores") for row in rows]
        columns = [item.name for item in fields(AnswerRow) if item.name != "scores"]
        return pd.concat([pd.DataFrame(rows, columns=columns), pd.DataFrame(scores, index=range(len(rows)))], axis=1)

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[AnswerRow]:
        return iter(self.answers)

    def __repr__(self) -> str:
        return f"<AnswerList {self._title()}>"

    def _repr_html_(self) -> str:
        return as_html(self._title(), self.to_pandas())

    def _title(self) -> str:
        shown = f"{len(self):,} of " if len(self) < self.total else ""
        wrong = f" wrong by {self.metric}" if self.metric else ""
        return f"{short_id(self.run_id)}: {shown}{counted(self.total, 'answer')}{wrong}"


def answers(
    run: str = LAST,
    *,
    arm: str | None = None,
    topic: str | None = None,
    wrong: bool = False,
    sort: str | None = None,
    limit: int = 0,
    workspace: Workspace | None = None,
) -> AnswerList:
    """Return the answers of an experiment, at most `limit` of them (0: all), in the order of its questions.

    `run` is an id, a unique prefix of one, or `last`. `wrong` keeps answers that score below 0.5 by the experiment's
    metric, which must range from 0 to 1. `sort` names a metric to sort by, worst first. Raises `InputError` for an
    unfinished experiment, an unknown arm, topic or metric, and for `wrong` if no metric can decide.
    """
    if limit < 0:
        raise InputError(f"limit must be 0 (all) or more, not {limit}", hint="--limit 20")

    from fledge.experiments._mlflow_experiments import load_plan, load_table
    from fledge.experiments._mlflow_runs import find_run

    client = connect((workspace or Workspace()).tracking)
    run_id = find_run(client, run)
    table = load_table(client, run_id)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]
    plan = load_plan(client, run_id) or {}
    directions: Mapping[str, bool | None] = plan.get("directions", {})
    metrics = _metrics(rows)
    metric, unscored = "", 0
    chosen = _filter(_filter(rows, "arm", arm), "topic", topic)
    if wrong:
        metric = _select_metric(plan.get("metric", ""), metrics, directions)
        _check_scale(rows, metric)
        scored = [row for row in chosen if _is_number(row[metric])]
        unscored = len(chosen) - len(scored)
        chosen = [row for row in scored if row[metric] < WRONG_BELOW]
    if sort:
        chosen = _sort_worst_first(chosen, sort, metrics, directions)
    shown = tuple(_row(row, [name for name in metrics if name not in RECORDED]) for row in chosen[: limit or None])
    return AnswerList(run_id, len(chosen), metric, unscored, shown)


def _filter(rows: list[dict[str, Any]], column: str, value: str | None) -> list[dict[str, Any]]:
    if value is None:
        return rows
    there = dict.fromkeys(str(row[column]) for row in rows if row[column])
    if value not in there:
        hint = f"--{column} one of: {', '.join(there)}" if there else f"leave out --{column}"
        raise InputError(f"the experiment has no {column} {value!r}", hint=hint)
    return [row for row in rows if row[column] == value]


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns with a number for at least one answer (scores, tokens, times), in table order."""
    names = [name for name in (rows[0] if rows else ()) if name not in RESERVED]
    return [name for name in names if any(_is_number(row[name]) for row in rows)]


def _select_metric(planned: str, metrics: Sequence[str], directions: Mapping[str, bool | None]) -> str:
    """Return the metric that decides what is wrong: the planned one, else the judge's grade."""
    metric = planned or JUDGE
    if metric in metrics and _higher_is_better(metric, directions):
        return metric
    if planned:
        problem = f"the experiment's metric {planned} cannot tell right answers from wrong ones"
    else:
        problem = "no metric for --wrong: the questions have no references, and no judge graded the answers"
    hint = "use questions with references or --judge URL#NAME; or list the worst by any metric: --sort METRIC"
    raise InputError(problem, hint=hint)


def _check_scale(rows: Iterable[Mapping[str, Any]], metric: str) -> None:
    outside = [row[metric] for row in rows if _is_number(row[metric]) and not 0 <= row[metric] <= 1]
    if outside:
        raise InputError(
            f"--wrong needs a score from 0 to 1, but {metric} is {outside[0]:g} for one answer",
            hint=f"--sort {metric}",
        )


def _sort_worst_first(
    rows: Iterable[dict[str, Any]], metric: str, metrics: Sequence[str], directions: Mapping[str, bool | None]
) -> list[dict[str, Any]]:
    """Return the rows sorted by a metric, worst first; rows without it come last."""
    sortable = {name: way for name in metrics if (way := _higher_is_better(name, directions)) is not None}
    if metric not in sortable:
        problem = f"the experiment has no metric {metric!r}"
        if metric in metrics:
            problem = f"cannot sort by {metric}: neither higher nor lower values are better"
        raise InputError(problem, hint=f"--sort one of: {', '.join(sortable)}")
    sign = 1 if sortable[metric] else -1
    return sorted(rows, key=lambda row: sign * row[metric] if _is_number(row[metric]) else math.inf)


def _higher_is_better(metric: str, directions: Mapping[str, bool | None]) -> bool | None:
    """Return the direction recorded in the experiment's plan, else the metric's current one."""
    return directions.get(metric, direction_of(metric))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _row(row: Mapping[str, Any], scores: Iterable[str]) -> AnswerRow:
    return AnswerRow(
        id=row["question_id"],
        arm=row["arm"],
        sample=int(row["sample"]),
        question=row["question"],
        reference=row["reference"],
        answer=row["answer"],
        finish_reason=row["finish_reason"],
        scores={name: float(row[name]) for name in scores if _is_number(row[name])},
        topic=row["topic"] or "",
        error=row["error"],
        trace_id=row["trace_id"],
    )
