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
    """Requests a second, and the median latency in seconds, over the clients of a closed loop; a line for each server,
    dotted for an engine without one."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    closed = [row for row in rows if row["loop"] == "closed"]
    loads = sorted({row["load"] for row in closed})
    names = list(dict.fromkeys(row["peer"] for row in closed))
    colors = {name: f"C{place}" for place, name in enumerate(dict.fromkeys(_server(name) for name in names))}
    figures = {"requests_per_s": "requests/s answered", "latency_p50_s": "median latency, s"}
    for axes, (figure_name, label) in zip(figure.subplots(1, 2), figures.items(), strict=True):
        for name in names:
            mine = [row for row in closed if row["peer"] == name and row[figure_name]]
            style = "o-" if name == _server(name) else "o:"
            points = [row["load"] for row in mine], [row[figure_name] for row in mine]
            axes.plot(*points, style, color=colors[_server(name)], label=name)
        if loads:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(loads, [f"{load:g}" for load in loads])
        axes.set_xlabel("clients")
        axes.set_ylabel(label)
    if loads:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def _server(name: str) -> str:
    """The endpoint that an engine belongs to, which is drawn in its colour."""
    return name.replace("engine", "fledge")


def plot_wall_time(rows: list[dict[str, Any]]) -> Figure:
    """A bar for each way of asking the same cells, in seconds."""
    figure = Figure(figsize=(7, 2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([row["peer"] for row in rows], [row["seconds"] for row in rows])
    axes.bar_label(bars, fmt="%.0f s", padding=3)
    axes.margins(x=0.15)
    axes.set_xlabel(f"seconds for {rows[0]['load']} answers")
    return figure
