"""What the rows of `bench serve` say about fledge against its peers: pure functions of them."""

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def ratios(rows: Rows, subjects: Sequence[str], peers: Sequence[str]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Requests a second of each subject over each peer, by clients; null where the peer answered nothing."""
    return {
        subject: {
            peer: _by_load(rows, (subject, "requests_per_s"), (peer, "requests_per_s"))
            for peer in _measured(rows, peers)
        }
        for subject in _measured(rows, subjects)
    }


def costs(rows: Rows, servers: Rows, subjects: Sequence[str], peers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a subject takes over what a peer takes: below 1 is better.

    `latency_p50` and `first_token` by clients, the latter over the peer's whole answer where it does not stream; of the
    server as a whole `ready` (command to first answer) and `memory`.
    """
    found: dict[str, dict[str, Any]] = {}
    whole = {server["peer"]: server for server in servers}
    for subject in _measured(rows, subjects):
        for peer in _measured(rows, peers):
            streams = any(row["ttft_p50_s"] for row in rows if row["peer"] == peer)
            found.setdefault(subject, {})[peer] = {
                "latency_p50": _by_load(rows, (subject, "latency_p50_s"), (peer, "latency_p50_s")),
                "first_token": _by_load(
                    rows, (subject, "ttft_p50_s"), (peer, "ttft_p50_s" if streams else "latency_p50_s")
                ),
                "ready": _over(whole[subject]["ready_seconds"], whole[peer]["ready_seconds"]),
                "memory": _over(whole[subject]["memory_bytes"], whole[peer]["memory_bytes"]),
            }
    return found


def over_engine(rows: Rows, engines: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """Requests a second of an endpoint over those of its engine in process, by clients."""
    measured = _measured(rows, [*engines, *engines.values()])
    return {
        name: _by_load(rows, (name, "requests_per_s"), (engine, "requests_per_s"))
        for name, engine in engines.items()
        if name in measured and engine in measured
    }


def _measured(rows: Rows, names: Sequence[str]) -> list[str]:
    found = {row["peer"] for row in rows}
    return [name for name in names if name in found]


def _by_load(rows: Rows, one: tuple[str, str], other: tuple[str, str]) -> dict[str, float | None]:
    """A figure of one server over a figure of another, for each number of clients."""
    values = {(row["peer"], row["load"]): row for row in rows if row["loop"] == "closed"}
    loads = [load for peer, load in values if peer == one[0]]
    return {
        f"{load:g}": _over(values[one[0], load][one[1]], values[other[0], load][other[1]])
        for load in loads
        if (other[0], load) in values
    }


def _over(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
