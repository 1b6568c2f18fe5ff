"""Plots of benchmarks, as matplotlib figures."""

from typing import Any

from matplotlib.figure import Figure


def plot_throughput(rows: list[dict[str, Any]]) -> Figure:
    """Output tokens a second over the load, a line for each engine, and dashed what the machine would allow it."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["peer"] for row in rows):
        mine = [row for row in rows if row["peer"] == name]
        loads = [row["load"] for row in mine]
        (line,) = axes.plot(loads, [row["output_tokens_per_s"] for row in mine], "o-", label=name)
        axes.plot(loads, [row["limit_tokens_per_s"] for row in mine], "--", color=line.get_color(), alpha=0.4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(loads, [str(load) for load in loads])
    axes.set_xlabel("sequences at once")
    axes.set_ylabel("output tokens/s (dashed: limit of this machine)")
    axes.legend()
    return figure


def plot_serving(rows: list[dict[str, Any]]) -> Figure:
    """Requests a second, and the median latency in seconds, over the clients of a closed loop; a line for each
    server."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    closed = [row for row in rows if row["loop"] == "closed"]
    loads = sorted({row["load"] for row in closed})
    figures = {"requests_per_s": "requests/s answered", "latency_p50_s": "median latency, s"}
    for axes, (name, label) in zip(figure.subplots(1, 2), figures.items(), strict=True):
        for peer in dict.fromkeys(row["peer"] for row in closed):
            mine = [row for row in closed if row["peer"] == peer and row[name]]
            style = "o:" if peer.startswith("engine") else "o-"
            axes.plot([row["load"] for row in mine], [row[name] for row in mine], style, label=peer)
        if loads:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(loads, [f"{load:g}" for load in loads])
        axes.set_xlabel("clients")
        axes.set_ylabel(label)
        if loads:
            axes.legend()
    return figure


def plot_wall_time(rows: list[dict[str, Any]]) -> Figure:
    """A bar for each way of asking the same cells, in seconds."""
    figure = Figure(figsize=(7, 2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([row["peer"] for row in rows], [row["seconds"] for row in rows])
    axes.bar_label(bars, fmt="%.0f s", padding=3)
    axes.margins(x=0.15)
    axes.set_xlabel(f"seconds for {rows[0]['load']} answers")
    return figure
