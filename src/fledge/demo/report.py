"""The demo's report: one HTML file that loads nothing from the network."""

import io
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from fledge.comparison.verdict import Comparison


def write_report(life: Any, path: Path) -> Path:
    """Write the report of a `Life` to `path`, and return it."""
    environment = Environment(loader=PackageLoader("fledge.demo"), autoescape=select_autoescape(default=True))
    html = environment.get_template("report.html").render(
        life=life,
        comparison=life.comparison,
        forest=_svg(_forest(life.comparison)),
        latency=_svg(_latencies(life.answers)),
        rows=life.answers,
    )
    path.write_text(html, encoding="utf-8")
    return path.absolute()


def _forest(comparison: Comparison) -> Figure:
    """Difference to the baseline with its interval, one line for each pair."""
    figure = Figure(figsize=(7, 0.9 + 0.5 * len(comparison.pairs)), layout="constrained")
    axes = figure.subplots()
    colours = {"better": "tab:green", "worse": "tab:red", "equivalent": "tab:blue", "inconclusive": "tab:gray"}
    for place, pair in enumerate(reversed(comparison.pairs)):
        colour = colours[pair.verdict]
        if all(map(math.isfinite, pair.ci)):
            axes.plot(pair.ci, [place, place], color=colour, linewidth=2)
        axes.plot([pair.difference], [place], "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(comparison.pairs)), [f"{pair.a} ({pair.verdict})" for pair in reversed(comparison.pairs)])
    axes.set_xlabel(f"difference in {comparison.metric} to {comparison.baseline}, 95 % interval")
    return figure


def _latencies(rows: list[dict[str, Any]]) -> Figure:
    """Seconds to the whole answer, for each arm."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    axes.boxplot([[row["latency_s"] for row in rows if row["arm"] == arm and not row["error"]] for arm in arms])
    axes.set_xticks(range(1, len(arms) + 1), arms)
    axes.set_ylabel("seconds")
    return figure


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704 (drawn by matplotlib, which escapes its texts)
