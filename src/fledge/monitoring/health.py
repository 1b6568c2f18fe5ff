"""Rates and percentiles of an endpoint's latest requests."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fledge.core.messages import OutboxRecord


@dataclass(frozen=True)
class Health:
    """Requests in a window; times in seconds, rates as shares. Percentiles are of answered requests, or None."""

    requests: int
    errors: int
    error_rate: float
    latency_p50_s: float | None
    latency_p95_s: float | None
    ttft_p50_s: float | None
    completion_tokens: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarize(records: Sequence[OutboxRecord]) -> Health:
    """Return the figures of the requests without shadow traffic; a status of 500 and above is an error."""
    records = [record for record in records if not record.is_shadow]
    errors = sum(record.status >= 500 for record in records)
    answered = [record for record in records if record.status == 200]
    latencies = [(record.ended_ns - record.started_ns) / 1e9 for record in answered]
    firsts = [(record.first_token_ns - record.started_ns) / 1e9 for record in answered if record.first_token_ns]
    return Health(
        requests=len(records),
        errors=errors,
        error_rate=errors / len(records) if records else 0.0,
        latency_p50_s=statistics.median(latencies) if latencies else None,
        latency_p95_s=_percentile(latencies, 95),
        ttft_p50_s=statistics.median(firsts) if firsts else None,
        completion_tokens=sum(record.completion_tokens for record in answered),
    )


def _percentile(values: list[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
