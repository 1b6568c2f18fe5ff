"""The demo's report: one HTML file that loads nothing from the network."""

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from fledge.comparison.intervals import Numbers
from fledge.comparison.plots import draw_boxes, draw_forest, render_svg


def write_report(life: Any, path: Path) -> Path:
    """Write the report of a `Life` to `path`, and return it."""
    environment = Environment(loader=PackageLoader("fledge.demo"), autoescape=select_autoescape(default=True))
    html = environment.get_template("report.html").render(
        life=life,
        comparison=life.comparison,
        forest=render_svg(draw_forest(life.comparison)),
        latency=render_svg(draw_boxes(_latencies(life.answers), "seconds")),
        rows=life.answers,
    )
    path.write_text(html, encoding="utf-8")
    return path.absolute()


def _latencies(rows: list[dict[str, Any]]) -> dict[str, Numbers]:
    """Seconds to the whole answer, for each arm."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    return {arm: np.array([row["latency_s"] for row in rows if row["arm"] == arm and not row["error"]]) for arm in arms}
