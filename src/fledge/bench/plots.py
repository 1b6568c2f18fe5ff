"""Plots of benchmarks, as matplotlib figures."""

from typing import Any

from matplotlib.figure import Figure


def plot_throughput(rows: list[dict[str, Any]]) -> Figure:
    """Plot output tokens/s over the load: a plot for each model, a line for each engine, its limit dashed."""
    models = _group_by_model(rows)
    figure = Figure(figsize=(7 * len(models), 4), layout="constrained")
    for axes, (model, mine) in zip(figure.subplots(1, len(models), squeeze=False)[0], models.items(), strict=True):
        for name in dict.fromkeys(row["peer"] for row in mine):
            line_rows = [row for row in mine if row["peer"] == name]
            loads = [row["load"] for row in line_rows]
            (line,) = axes.plot(loads, [row["output_tokens_per_s"] for row in line_rows], "o-", label=name)
            limits = [row["limit_tokens_per_s"] for row in line_rows]
            if None not in limits:
                axes.plot(loads, limits, "--", color=line.get_color(), alpha=0.4)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(loads, [str(load) for load in loads])
        axes.set_xlabel("concurrent sequences")
        axes.set_ylabel("output tokens/s (dashed: limit of this machine)")
        axes.set_title(model)
        axes.legend()
    return figure


def _group_by_model(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    models: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        models.setdefault(row["model"], []).append(row)
    return models


def plot_serving(rows: list[dict[str, Any]]) -> Figure:
    """Plot requests/s and median latency in seconds over the clients of a closed loop: a row for each model, a line for
    each server, dotted for engines in process."""
    closed = [row for row in rows if row["loop"] == "closed"]
    models = _group_by_model(closed)
    figure = Figure(figsize=(10, 4 * max(1, len(models))), layout="constrained")
    names = list(dict.fromkeys(row["peer"] for row in closed))
    colors = {name: f"C{place}" for place, name in enumerate(dict.fromkeys(_endpoint_of(name) for name in names))}
    figures = {"requests_per_s": "requests/s answered", "latency_p50_s": "median latency, s"}
    for number, (model, model_rows) in enumerate(models.items()):
        loads = sorted({row["load"] for row in model_rows})
        for column, (figure_name, label) in enumerate(figures.items()):
            axes = figure.add_subplot(len(models), 2, 2 * number + column + 1)
            for name in names:
                mine = [row for row in model_rows if row["peer"] == name and row[figure_name]]
                style = "o-" if name == _endpoint_of(name) else "o:"
                points = [row["load"] for row in mine], [row[figure_name] for row in mine]
                axes.plot(*points, style, color=colors[_endpoint_of(name)], label=name)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(loads, [f"{load:g}" for load in loads])
            axes.set_xlabel("clients")
            axes.set_ylabel(label)
            axes.set_title(model)
    if models:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def _endpoint_of(name: str) -> str:
    """Return the endpoint of an engine, which has the same colour."""
    return name.replace("engine", "fledge")


def plot_wall_time(rows: list[dict[str, Any]]) -> Figure:
    """Plot a bar in seconds for each model and method."""
    figure = Figure(figsize=(7, 0.5 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([f"{row['model']}: {row['peer']}" for row in rows], [row["seconds"] for row in rows])
    axes.bar_label(bars, fmt="%.0f s", padding=3)
    axes.margins(x=0.15)
    axes.set_xlabel(f"seconds for {rows[0]['load']} answers")
    return figure
