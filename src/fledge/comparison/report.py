"""The report of a comparison: one HTML file that loads nothing from the network."""

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from fledge.comparison.arms import ArmDescription, compare_settings
from fledge.comparison.exploration import explore
from fledge.comparison.findings import Comparison
from fledge.comparison.plots import boxes, forest, svg
from fledge.comparison.table import ScoreTable, by_question, metrics
from fledge.prompts.diff import DiffPart, word_diff

MOST_QUESTIONS = 200
LONGEST_TEXT = 4000
FIGURES = ("latency_s", "ttft_s", "prompt_tokens", "completion_tokens", "cost")


class Shown(NamedTuple):
    """One answer, in parts that say what differs from the baseline's. `standing` is `right` or `wrong` where every
    score is 0 or 1, else `ahead` or `behind` the baseline; empty where it is neither."""

    arm: str
    parts: list[DiffPart]
    score: float | None
    error: str
    standing: str


class ReportRow(NamedTuple):
    """One question with the answers of all arms; `spread` is the largest difference between their scores, `low` the
    places of the arms whose answer is wrong or behind the baseline's."""

    number: int
    question: str
    reference: str
    topic: str
    spread: float
    answers: list[Shown]
    low: list[int]


def render_report(
    comparison: Comparison, table: pd.DataFrame, *, run_id: str = "", descriptions: Sequence[ArmDescription] = ()
) -> str:
    """A page on a comparison and the long table that it was made from; `descriptions` say what its arms asked.

    Where the table has the columns `answer`, `text` (the question) and `reference`, answers stand side by side, those
    of the 200 questions on which arms differ most.
    """
    scores = by_question(table, comparison.metric)
    known = {item.name: item for item in descriptions}
    described = [known[arm.name] for arm in comparison.arms if arm.name in known]
    rows = _rows(table, scores, comparison) if "answer" in table else []
    findings = explore(table, comparison)
    telling = {finding.metric for finding in findings if finding.ties < finding.questions}
    environment = Environment(loader=PackageLoader("fledge.comparison"), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = _number
    return environment.get_template("comparison.html").render(
        comparison=comparison,
        forest=svg(forest(comparison)),
        matrix=_matrix(scores, comparison),
        figures=_figures(table, comparison),
        boxes=[svg(boxes(_by_arm(table, name, comparison), name)) for name in ("latency_s", "cost") if name in table],
        findings=sorted((item for item in findings if item.metric in telling), key=lambda item: item.q),
        alike=[name for name in dict.fromkeys(item.metric for item in findings) if name not in telling],
        descriptions=described,
        settings=compare_settings(described),
        rows=rows,
        topics=sorted({row.topic for row in rows} - {""}),
        by_baseline=not scores.binary,
        questions=len(scores.values),
        most=MOST_QUESTIONS,
        run_id=run_id,
        version=version("fledge"),
        written=time.strftime("%Y-%m-%d %H:%M %Z"),
    )


def _matrix(scores: ScoreTable, comparison: Comparison) -> list[tuple[str, list[tuple[int, int, int] | None]]]:
    """For each arm, against each other: on how many questions it wins, ties and loses."""
    sign = -1 if comparison.higher_is_better is False else 1
    names = [arm.name for arm in comparison.arms]
    rows: list[tuple[str, list[tuple[int, int, int] | None]]] = []
    for a in names:
        cells: list[tuple[int, int, int] | None] = []
        for b in names:
            if a == b or not scores.share(a, b):
                cells.append(None)
                continue
            gains = scores.pair(a, b).differences * sign
            cells.append((int(np.sum(gains > 0)), int(np.sum(gains == 0)), int(np.sum(gains < 0))))
        rows.append((a, cells))
    return rows


def _figures(table: pd.DataFrame, comparison: Comparison) -> dict[str, dict[str, float]]:
    """Means of what answers took, by figure and arm."""
    return {
        name: {arm: float(values.mean()) for arm, values in _by_arm(table, name, comparison).items() if len(values)}
        for name in FIGURES
        if name in metrics(table) and table[name].notna().any()
    }


def _by_arm(table: pd.DataFrame, column: str, comparison: Comparison) -> dict[str, Any]:
    arms = table["arm"].astype(str)
    return {
        arm.name: table.loc[arms == arm.name, column].dropna().to_numpy(dtype=np.float64) for arm in comparison.arms
    }


def _rows(table: pd.DataFrame, scores: ScoreTable, comparison: Comparison) -> list[ReportRow]:
    questions = list(dict.fromkeys(table["question"]))
    spreads = [float(np.nanmax(row) - np.nanmin(row)) if np.isfinite(row).any() else 0.0 for row in scores.values]
    order = sorted(range(len(questions)), key=lambda place: -spreads[place])[:MOST_QUESTIONS]
    chosen = table[table["question"].isin([questions[place] for place in order])]
    groups = chosen.drop_duplicates(["question", "arm"]).groupby("question")  # of several samples the first is shown
    passing = scores.binary
    return [
        _row(place + 1, groups.get_group(questions[place]), spreads[place], comparison, passing=passing)
        for place in order
    ]


def _standing(score: float | None, base: float | None, comparison: Comparison, *, passing: bool) -> str:
    if score is None or comparison.higher_is_better is None:
        return ""
    if passing:
        return "right" if bool(score) == comparison.higher_is_better else "wrong"
    if base is None or score == base:
        return ""
    return "ahead" if (score > base) == comparison.higher_is_better else "behind"


def _row(number: int, answers: pd.DataFrame, spread: float, comparison: Comparison, *, passing: bool) -> ReportRow:
    by_arm = {str(row["arm"]): row for row in answers.to_dict("records")}
    base = _cut(by_arm.get(comparison.baseline, {}).get("answer"))
    base_score = _score(by_arm.get(comparison.baseline, {}).get(comparison.metric))
    shown, low = [], []
    for place, arm in enumerate(comparison.arms):
        row = by_arm.get(arm.name)
        if row is None:
            continue
        text = _cut(row["answer"])
        parts = [DiffPart("equal", text)] if arm.name == comparison.baseline else _compared(base, text)
        score = _score(row[comparison.metric])
        standing = _standing(score, base_score, comparison, passing=passing)
        shown.append(Shown(arm.name, parts, score, _cut(row.get("error")), standing))
        if standing in ("wrong", "behind"):
            low.append(place)
    any_row = next(iter(by_arm.values()))
    question = _cut(any_row.get("text", any_row["question"]))
    topic = _cut(any_row.get("topic"))
    return ReportRow(number, question, _cut(any_row.get("reference")), topic, spread, shown, low)


def _score(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None


def _compared(base: str, text: str) -> list[DiffPart]:
    """What differs, word by word; the text as it is where hardly a word is shared."""
    parts = word_diff(base, text)
    shared = sum(len(part.text) for part in parts if part.op == "equal")
    return parts if 2 * shared >= max(len(base), len(text)) else [DiffPart("equal", text)]


def _cut(value: object) -> str:
    """A text, not too long for a page; nothing for what is none."""
    text = value if isinstance(value, str) else ""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ... ({len(text):,} characters)"


def _number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
