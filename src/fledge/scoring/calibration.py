"""`calibrate_judge`: compare a judge with human labels of the same answers."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd

from fledge.core.csv_files import read_csv
from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Progress, no_progress
from fledge.scoring.agreement import Agreement, agreement
from fledge.scoring.judge import BEST, TRY_JUDGE, WORST, Judge, JudgeConfig, JudgeCounts, JudgeError

Kind = Literal["grades", "pass or fail", "preferences"]

PASS_FROM = 4  # of the grades from 1 to 5
SHOWN = 20
HINT = "columns: question, answer, label (1 to 5, or 0 and 1), or question, a, b, label (a, b, tie)"
PREFERRED = {"a": 1.0, "b": -1.0, "tie": 0.0}
PASSED = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "fail": 0.0, "pass": 1.0}
GRADED = {str(grade): float(grade) for grade in range(WORST, BEST + 1)}


class Labelled(NamedTuple):
    """One labelled row: a question, one or two answers, and the human label."""

    line: int
    question: str
    reference: str | None
    a: str
    b: str | None
    label: float


class Disagreement(NamedTuple):
    """A row on which the judge differs from the label; `line` counts rows from 1."""

    line: int
    question: str
    people: float
    judge: float
    rationale: str


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration. `kind` is the kind of labels: `grades`, `pass or fail` (the judge passes grades of 4 and
    5) or `preferences` (1 for a, -1 for b, 0 for a tie). `passed` is None without `min_kappa`."""

    judge: str
    kind: Kind
    labels: int
    judged: int
    counts: JudgeCounts
    agreement: Agreement
    disagreements: tuple[Disagreement, ...]
    passed: bool | None

    def as_dict(self) -> dict[str, Any]:
        found = self.agreement._asdict()
        values = {**asdict(self), **found, "labels": self.labels, "classes": found["labels"]}
        del values["agreement"]
        return {
            **values,
            "counts": self.counts._asdict(),
            "disagreements": [item._asdict() for item in self.disagreements],
        }


def calibrate_judge(
    judging: JudgeConfig,
    labels: str | pd.DataFrame,
    *,
    min_kappa: float | None = None,
    progress: Progress = no_progress,
) -> Calibration:
    """Let a judge grade answers with human labels and measure the agreement; `labels` is a CSV file or a data frame.

    `passed` is true if the lower end of the interval of kappa is at least `min_kappa`. Raises `InputError` for invalid
    labels, `FledgeError` if the judge returned no judgement.
    """
    if not judging.judge:
        raise InputError("no judge given", hint="--judge URL#NAME")
    if min_kappa is not None and not -1 <= min_kappa <= 1:
        raise InputError(f"min_kappa must be from -1 to 1, not {min_kappa:g}", hint="--min-kappa 0.6")
    kind, rows = read_labels(labels)

    from fledge.scoring._mlflow_judge import open_judge

    judge = open_judge(judging)
    found: list[tuple[Labelled, float, str]] = []
    error = ""
    for row, outcome in judge.ask_all(
        rows, lambda row: _judge_row(judge, kind, row), lambda done, every: progress(done, every, "rows judged")
    ):
        if isinstance(outcome, JudgeError):
            error = outcome.message
        else:
            found.append((row, *outcome))
    if not found:
        raise FledgeError(f"no judgement on any of {len(rows):,} rows: {error}", hint=TRY_JUDGE)
    agreed = agreement([row.label for row, _, _ in found], [value for _, value, _ in found])
    return Calibration(
        judge=judging.judge,
        kind=kind,
        labels=len(rows),
        judged=len(found),
        counts=judge.counts,
        agreement=agreed,
        disagreements=tuple(_largest_disagreements(found)),
        passed=None if min_kappa is None else agreed.ci is not None and agreed.ci[0] >= min_kappa,
    )


def read_labels(source: str | pd.DataFrame) -> tuple[Kind, list[Labelled]]:
    """Read labels and detect their kind. Raises `InputError` that names the invalid row."""
    where = source if isinstance(source, str) else "the table"
    if isinstance(source, str):
        table = read_csv(source, "--labels", HINT, dtype=str, keep_default_na=False)
    else:
        table = source.astype(object).where(source.notna(), "").astype(str)
    paired = "a" in table and "b" in table
    needed = ("question", "a", "b", "label") if paired else ("question", "answer", "label")
    missing = [name for name in needed if name not in table]
    if missing:
        raise InputError(f"{where}: no column {', '.join(missing)}", hint=HINT)
    if table.empty:
        raise InputError(f"{where}: no labels", hint=HINT)
    labels_text = table["label"].str.strip().str.lower().str.removesuffix(".0")
    kind, known = _detect_kind(paired, set(labels_text))
    for line, text in enumerate(labels_text, 1):
        if text not in known:
            raise InputError(f"{where}, row {line}: {text[:80]!r} is not a label ({', '.join(known)})", hint=HINT)
        if not table["question"].iloc[line - 1].strip():
            raise InputError(f"{where}, row {line}: no question", hint=HINT)
    rows = table.to_dict("records")
    return kind, [
        Labelled(
            line,
            row["question"],
            row.get("reference") or None,
            row["a"] if paired else row["answer"],
            row["b"] if paired else None,
            known[label],
        )
        for line, (row, label) in enumerate(zip(rows, labels_text, strict=True), 1)
    ]


def _detect_kind(paired: bool, labels_text: set[str]) -> tuple[Kind, dict[str, float]]:
    if paired:
        return "preferences", PREFERRED
    return ("pass or fail", PASSED) if labels_text <= set(PASSED) else ("grades", GRADED)


def _judge_row(judge: Judge, kind: Kind, row: Labelled) -> tuple[float, str]:
    if row.b is not None:
        preference = judge.prefer(row.question, row.a, row.b, row.reference)
        return float(preference.value), preference.rationale
    grade = judge.grade(row.question, row.a, row.reference)
    value = WORST + grade.value * (BEST - WORST)
    return float(value >= PASS_FROM) if kind == "pass or fail" else value, grade.rationale


def _largest_disagreements(found: list[tuple[Labelled, float, str]]) -> Iterator[Disagreement]:
    """Yield the largest disagreements first."""
    others = [item for item in found if item[0].label != item[1]]
    for row, value, rationale in sorted(others, key=lambda item: (-abs(item[0].label - item[1]), item[0].line))[:SHOWN]:
        yield Disagreement(row.line, row.question, row.label, value, rationale)
