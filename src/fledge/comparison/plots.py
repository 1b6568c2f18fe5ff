"""Plots of comparisons: matplotlib figures, and SVG for a page."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from fledge.comparison.findings import Comparison
from fledge.comparison.intervals import Numbers

COLOURS = {"better": "tab:green", "worse": "tab:red", "equivalent": "tab:blue", "inconclusive": "tab:gray"}


def draw_forest(comparison: Comparison) -> Figure:
    """Draw a forest plot: the difference of each pair with its 95 % interval, and the margin as a band."""
    pairs = list(reversed(comparison.pairs))
    figure = Figure(figsize=(7, 0.9 + 0.5 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    if comparison.margin:
        axes.axvspan(-comparison.margin, comparison.margin, color="tab:blue", alpha=0.12, linewidth=0)
    for place, pair in enumerate(pairs):
        colour = COLOURS[pair.verdict]
        if all(map(math.isfinite, pair.ci)):
            axes.plot(pair.ci, [place, place], color=colour, linewidth=2)
        axes.plot([pair.difference], [place], "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    several = len({pair.b for pair in pairs}) > 1
    names = [f"{pair.a} - {pair.b}" if several else pair.a for pair in pairs]
    labels = [f"{name} ({pair.verdict})" for name, pair in zip(names, pairs, strict=True)]
    axes.set_yticks(range(len(pairs)), [escape_mathtext(label) for label in labels])
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    against = "" if several else f" to {comparison.baseline}"
    axes.set_xlabel(escape_mathtext(f"difference in {comparison.metric}{against}, 95 % interval"))
    return figure


def draw_boxes(values: Mapping[str, Numbers], title: str) -> Figure:
    """Draw a box plot for each name: median, quartiles and outliers."""
    names = [name for name, numbers in values.items() if len(numbers)]
    figure = Figure(figsize=(max(3.5, 1.2 + 1.1 * len(names)), 2.6), layout="constrained")
    axes = figure.subplots()
    if names:
        axes.boxplot([values[name] for name in names])
    axes.set_xticks(range(1, len(names) + 1), escape_mathtexts(names))
    axes.set_title(escape_mathtext(title), fontsize=10)
    return figure


def escape_mathtext(text: str) -> str:
    """Escape a text so that matplotlib does not read it as mathematics."""
    return text.replace("$", r"\$")


def escape_mathtexts(texts: Sequence[str]) -> list[str]:
    """Escape each text."""
    return [escape_mathtext(text) for text in texts]


def render_svg(figure: Figure) -> Markup:
    """Render a figure as SVG markup for a page."""
    buffer = io.StringIO()
    # The salt makes the SVG reproducible; text stays text because the browser has more fonts.
    with rc_context({"svg.hashsalt": "fledge", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704 (drawn by matplotlib, which escapes its texts)
