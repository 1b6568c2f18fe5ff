"""Compare fledge with its peers from the rows of `bench serve`; pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

BenchRows = Sequence[Mapping[str, Any]]


def ratios(
    rows: BenchRows, subjects: Sequence[str], peers: Sequence[str]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return each subject's requests/s divided by each peer's, by clients; null if the peer answered nothing."""
    return {
        subject: {
            peer: _divide_by_load(rows, (subject, "requests_per_s"), (peer, "requests_per_s"))
            for peer in _filter_measured(rows, peers)
        }
        for subject in _filter_measured(rows, subjects)
    }


def costs(
    rows: BenchRows, servers: BenchRows, subjects: Sequence[str], peers: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return each subject's costs divided by each peer's; below 1 is better.

    `latency_p50` and `first_token` are by clients; for a peer that does not stream, the first token comes with the
    whole answer. `ready` (command to first answer) and `memory` are those of the whole server.
    """
    found: dict[str, dict[str, Any]] = {}
    whole = {server["peer"]: server for server in servers}
    for subject in _filter_measured(rows, subjects):
        for peer in _filter_measured(rows, peers):
            streams = any(row["ttft_p50_s"] for row in rows if row["peer"] == peer)
            found.setdefault(subject, {})[peer] = {
                "latency_p50": _divide_by_load(rows, (subject, "latency_p50_s"), (peer, "latency_p50_s")),
                "first_token": _divide_by_load(
                    rows, (subject, "ttft_p50_s"), (peer, "ttft_p50_s" if streams else "latency_p50_s")
                ),
                "ready": _divide(whole[subject]["ready_seconds"], whole[peer]["ready_seconds"]),
                "memory": _divide(whole[subject]["memory_bytes"], whole[peer]["memory_bytes"]),
            }
    return found


def over_engine(rows: BenchRows, engines: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """Return an endpoint's requests/s divided by its engine's in process, by clients."""
    measured = _filter_measured(rows, [*engines, *engines.values()])
    return {
        name: _divide_by_load(rows, (name, "requests_per_s"), (engine, "requests_per_s"))
        for name, engine in engines.items()
        if name in measured and engine in measured
    }


def _filter_measured(rows: BenchRows, names: Sequence[str]) -> list[str]:
    found = {row["peer"] for row in rows}
    return [name for name in names if name in found]


def _divide_by_load(rows: BenchRows, one: tuple[str, str], other: tuple[str, str]) -> dict[str, float | None]:
    """Return a figure of one server divided by a figure of another, by clients."""
    values = {(row["peer"], row["load"]): row for row in rows if row["loop"] == "closed"}
    loads = [load for peer, load in values if peer == one[0]]
    return {
        f"{load:g}": _divide(values[one[0], load][one[1]], values[other[0], load][other[1]])
        for load in loads
        if (other[0], load) in values
    }


def _divide(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
