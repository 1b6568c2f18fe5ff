"""The demo's report: one self-contained HTML file."""

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from fledge.comparison.intervals import Numbers
from fledge.comparison.plots import draw_boxes, draw_forest, render_svg


def write_report(result: Any, path: Path) -> Path:
    """Write the report of a `DemoResult` to `path` and return its absolute path."""
    environment = Environment(loader=PackageLoader("fledge.demo"), autoescape=select_autoescape(default=True))
    html = environment.get_template("report.html").render(
        result=result,
        comparison=result.comparison,
        forest=render_svg(draw_forest(result.comparison)),
        latency=render_svg(draw_boxes(_group_latencies(result.answers), "seconds")),
        rows=result.answers,
    )
    path.write_text(html, encoding="utf-8")
    return path.absolute()


def _group_latencies(rows: list[dict[str, Any]]) -> dict[str, Numbers]:
    """Return the latencies of each arm, in seconds."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    return {arm: np.array([row["latency_s"] for row in rows if row["arm"] == arm and not row["error"]]) for arm in arms}
