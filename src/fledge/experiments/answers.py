"""`answers`: what an experiment's arms answered, those that went wrong first or alone."""

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
    """One answer as the table of its experiment has it. `id` is the question's; `error` is empty for an answer that
    came, and `scores` lacks those that it has not."""

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
    """Answers of the run `run_id`, the first of `total`. `metric` is the one that told right from wrong, empty where
    that was not wanted; `unscored` counts the answers that were left out as they have no such score."""

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

    `run` is an id, a unique prefix of one, or `last`. `wrong` keeps those that the experiment's metric calls wrong: of
    pass/fail those with 0, of other scores from 0 to 1 those below 0.5. `sort` names a metric by which the worst come
    first. Raises `InputError` for an unfinished experiment, an arm, topic or metric that it has not, and for `wrong`
    where no metric tells right from wrong.
    """
    if limit < 0:
        raise InputError(f"limit is {limit}, but must be 0 (all) or more", hint="--limit 20")

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
    chosen = _only(_only(rows, "arm", arm), "topic", topic)
    if wrong:
        metric = _judging_metric(plan.get("metric", ""), metrics, directions)
        _check_scale(rows, metric)
        scored = [row for row in chosen if _known(row[metric])]
        unscored = len(chosen) - len(scored)
        chosen = [row for row in scored if row[metric] < WRONG_BELOW]
    if sort:
        chosen = _worst_first(chosen, sort, metrics, directions)
    shown = tuple(_row(row, [name for name in metrics if name not in RECORDED]) for row in chosen[: limit or None])
    return AnswerList(run_id, len(chosen), metric, unscored, shown)


def _only(rows: list[dict[str, Any]], column: str, value: str | None) -> list[dict[str, Any]]:
    if value is None:
        return rows
    there = dict.fromkeys(str(row[column]) for row in rows if row[column])
    if value not in there:
        hint = f"--{column} one of: {', '.join(there)}" if there else f"leave out --{column}"
        raise InputError(f"the experiment has no {column} {value!r}", hint=hint)
    return [row for row in rows if row[column] == value]


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that hold a number for some answer, in the order of the table: scores, and what answers took."""
    names = [name for name in (rows[0] if rows else ()) if name not in RESERVED]
    return [name for name in names if any(_known(row[name]) for row in rows)]


def _judging_metric(planned: str, metrics: Sequence[str], directions: Mapping[str, bool | None]) -> str:
    """The metric that tells right from wrong: the planned one, or the judge's grade where none was planned."""
    metric = planned or JUDGE
    if metric in metrics and _higher_is_better(metric, directions):
        return metric
    if planned:
        problem = f"the experiment's metric is {planned}, which does not tell right from wrong"
    else:
        problem = "no metric tells right from wrong: the questions have no references, and no judge graded the answers"
    hint = "ask with references or with --judge URL#NAME; or see the worst by any metric: --sort METRIC"
    raise InputError(problem, hint=hint)


def _check_scale(rows: Iterable[Mapping[str, Any]], metric: str) -> None:
    outside = [row[metric] for row in rows if _known(row[metric]) and not 0 <= row[metric] <= 1]
    if outside:
        raise InputError(
            f"--wrong needs a score from 0 to 1, but {metric} is {outside[0]:g} for one answer",
            hint=f"--sort {metric}",
        )


def _worst_first(
    rows: Iterable[dict[str, Any]], metric: str, metrics: Sequence[str], directions: Mapping[str, bool | None]
) -> list[dict[str, Any]]:
    """The rows by how bad they are; those without the metric last."""
    sortable = {name: way for name in metrics if (way := _higher_is_better(name, directions)) is not None}
    if metric not in sortable:
        problem = f"the experiment has no metric {metric!r}"
        if metric in metrics:
            problem = f"{metric} has no better direction, so answers cannot be sorted by it"
        raise InputError(problem, hint=f"--sort one of: {', '.join(sortable)}")
    sign = 1 if sortable[metric] else -1
    return sorted(rows, key=lambda row: sign * row[metric] if _known(row[metric]) else math.inf)


def _higher_is_better(metric: str, directions: Mapping[str, bool | None]) -> bool | None:
    """As it was when the experiment was planned, else as the metric is known today."""
    return directions.get(metric, direction_of(metric))


def _known(value: Any) -> bool:
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
        scores={name: float(row[name]) for name in scores if _known(row[name])},
        topic=row["topic"] or "",
        error=row["error"],
        trace_id=row["trace_id"],
    )
