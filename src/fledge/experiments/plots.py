"""Plots of an experiment, as matplotlib figures."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fledge.comparison.plots import escape_mathtexts


def plot_arms(table: pd.DataFrame) -> Figure:
    """Plot, for each arm, the scores of its answers and their times in seconds, with the means."""
    metric = next((name for name in ("token_f1", "response_length") if name in table), "latency_s")
    arms = list(dict.fromkeys(table["arm"]))
    # Fixed margins: computing them would take as long as drawing.
    figure = Figure(figsize=(2 + 1.8 * len(arms), 3.2))
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.12, top=0.88, wspace=0.25)
    left, right = figure.subplots(1, 2)
    _draw(left, table, arms, metric, metric)
    _draw(right, table, arms, "latency_s", "seconds to the whole answer")
    return figure


def _draw(axes: Axes, table: pd.DataFrame, arms: list[str], column: str, title: str) -> None:
    for place, arm in enumerate(arms):
        values = table[table["arm"] == arm][column].dropna().astype(float).to_numpy()
        offsets = [place + (index % 7 - 3) * 0.04 for index in range(len(values))]
        axes.plot(offsets, values, ".", alpha=0.4, color="tab:blue")
        if len(values):
            axes.plot([place - 0.25, place + 0.25], [values.mean()] * 2, color="black")
    axes.set_xticks(range(len(arms)), escape_mathtexts(arms))
    axes.set_title(title, fontsize=10)
