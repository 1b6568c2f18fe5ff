"""Plots of an experiment, as matplotlib figures."""

import pandas as pd
from matplotlib.figure import Figure


def plot_arms(table: pd.DataFrame) -> Figure:
    """Two panels over the arms: every answer's score with the mean, and every answer's seconds."""
    metric = next((name for name in ("token_f1", "response_length") if name in table), "latency_s")
    arms = list(dict.fromkeys(table["arm"]))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2), (metric, "latency_s"), (metric, "seconds to the whole answer"), strict=True
    ):
        groups = [table[table["arm"] == arm][column].dropna().astype(float).to_numpy() for arm in arms]
        for place, values in enumerate(groups):
            offsets = [place + (index % 7 - 3) * 0.04 for index in range(len(values))]
            axes.plot(offsets, values, ".", alpha=0.4, color="tab:blue")
            if len(values):
                axes.plot([place - 0.25, place + 0.25], [values.mean()] * 2, color="black")
        axes.set_xticks(range(len(arms)), arms)
        axes.set_title(title, fontsize=10)
    return figure
