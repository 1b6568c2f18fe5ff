"""HTML report of a comparison: one file that loads nothing from the network."""

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
from fledge.comparison.plots import draw_boxes, draw_forest, render_svg
from fledge.comparison.table import ScoreTable, by_question, metrics
from fledge.prompts.diff import DiffPart, word_diff

MOST_QUESTIONS = 200
LONGEST_TEXT = 4000
FIGURES = ("latency_s", "ttft_s", "prompt_tokens", "completion_tokens", "cost")


class ShownAnswer(NamedTuple):
    """One answer as a diff to the baseline's. `standing` is `right` or `wrong` if every score is 0 or 1, else `ahead`
    or `behind` the baseline; empty if neither."""

    arm: str
    parts: list[DiffPart]
    score: float | None
    error: str
    standing: str


class ReportRow(NamedTuple):
    """One question with the answers of all arms. `spread` is the largest difference between their scores; `low` lists
    the indexes of the arms whose answer is wrong or behind the baseline's."""

    number: int
    question: str
    reference: str
    topic: str
    spread: float
    answers: list[ShownAnswer]
    low: list[int]


def render_report(
    comparison: Comparison, table: pd.DataFrame, *, run_id: str = "", descriptions: Sequence[ArmDescription] = ()
) -> str:
    """Render a comparison and its long table as an HTML page; `descriptions` give each arm's prompt and settings.

    If the table has the columns `answer`, `text` (the question) and `reference`, the page shows the answers to the 200
    questions on which arms differ most, side by side.
    """
    scores = by_question(table, comparison.metric)
    known = {item.name: item for item in descriptions}
    described = [known[arm.name] for arm in comparison.arms if arm.name in known]
    rows = _report_rows(table, scores, comparison) if "answer" in table else []
    findings = explore(table, comparison)
    differing = {finding.metric for finding in findings if finding.ties < finding.questions}
    environment = Environment(loader=PackageLoader("fledge.comparison"), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = _format_number
    return environment.get_template("comparison.html").render(
        comparison=comparison,
        forest=render_svg(draw_forest(comparison)),
        matrix=_count_wins(scores, comparison),
        figures=_mean_figures(table, comparison),
        boxes=[
            render_svg(draw_boxes(_group_by_arm(table, name, comparison), name))
            for name in ("latency_s", "cost")
            if name in table
        ],
        findings=sorted((item for item in findings if item.metric in differing), key=lambda item: item.q),
        constant=[name for name in dict.fromkeys(item.metric for item in findings) if name not in differing],
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


def _count_wins(scores: ScoreTable, comparison: Comparison) -> list[tuple[str, list[tuple[int, int, int] | None]]]:
    """Count each arm's wins, ties and losses against each other arm."""
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


def _mean_figures(table: pd.DataFrame, comparison: Comparison) -> dict[str, dict[str, float]]:
    """Return the mean latency, token counts and cost, by figure and arm."""
    return {
        name: {
            arm: float(values.mean()) for arm, values in _group_by_arm(table, name, comparison).items() if len(values)
        }
        for name in FIGURES
        if name in metrics(table) and table[name].notna().any()
    }


def _group_by_arm(table: pd.DataFrame, column: str, comparison: Comparison) -> dict[str, Any]:
    arms = table["arm"].astype(str)
    return {
        arm.name: table.loc[arms == arm.name, column].dropna().to_numpy(dtype=np.float64) for arm in comparison.arms
    }


def _report_rows(table: pd.DataFrame, scores: ScoreTable, comparison: Comparison) -> list[ReportRow]:
    questions = list(dict.fromkeys(table["question"]))
    spreads = [float(np.nanmax(row) - np.nanmin(row)) if np.isfinite(row).any() else 0.0 for row in scores.values]
    order = sorted(range(len(questions)), key=lambda place: -spreads[place])[:MOST_QUESTIONS]
    chosen = table[table["question"].isin([questions[place] for place in order])]
    groups = chosen.drop_duplicates(["question", "arm"]).groupby("question")  # show the first sample
    passing = scores.binary
    return [
        _report_row(place + 1, groups.get_group(questions[place]), spreads[place], comparison, passing=passing)
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


def _report_row(
    number: int, answers: pd.DataFrame, spread: float, comparison: Comparison, *, passing: bool
) -> ReportRow:
    by_arm = {str(row["arm"]): row for row in answers.to_dict("records")}
    base = _truncate(by_arm.get(comparison.baseline, {}).get("answer"))
    base_score = _score(by_arm.get(comparison.baseline, {}).get(comparison.metric))
    shown, low = [], []
    for place, arm in enumerate(comparison.arms):
        row = by_arm.get(arm.name)
        if row is None:
            continue
        text = _truncate(row["answer"])
        parts = [DiffPart("equal", text)] if arm.name == comparison.baseline else _diff_to_baseline(base, text)
        score = _score(row[comparison.metric])
        standing = _standing(score, base_score, comparison, passing=passing)
        shown.append(ShownAnswer(arm.name, parts, score, _truncate(row.get("error")), standing))
        if standing in ("wrong", "behind"):
            low.append(place)
    any_row = next(iter(by_arm.values()))
    question = _truncate(any_row.get("text", any_row["question"]))
    topic = _truncate(any_row.get("topic"))
    return ReportRow(number, question, _truncate(any_row.get("reference")), topic, spread, shown, low)


def _score(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None


def _diff_to_baseline(base: str, text: str) -> list[DiffPart]:
    """Return a word diff, or the plain text if the two share less than half of their text."""
    parts = word_diff(base, text)
    shared = sum(len(part.text) for part in parts if part.op == "equal")
    return parts if 2 * shared >= max(len(base), len(text)) else [DiffPart("equal", text)]


def _truncate(value: object) -> str:
    """Return the text truncated for the page; an empty string for anything but a string."""
    text = value if isinstance(value, str) else ""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ... ({len(text):,} characters)"


def _format_number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
