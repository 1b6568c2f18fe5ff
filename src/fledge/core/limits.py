"""Limits and timeouts of an endpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from fledge.core.decoding import decode
from fledge.core.generation import BOUNDS
from fledge.core.settings import option, out_of_range


@dataclass(frozen=True)
class Limits:
    """Bounds of an endpoint; sizes in bytes, times in seconds."""

    GROUP: ClassVar = "Limits"

    max_body_bytes: int = option(1_000_000, "maximum size of a request body in bytes")
    max_json_depth: int = option(32, "maximum nesting depth of JSON")
    max_rows: int = option(1000, "maximum rows or prompts per request")
    max_n: int = option(8, "maximum answers per prompt")
    max_new_tokens: int = option(4096, "maximum new tokens that a request may set")
    max_running: int = option(64, "answers that a release computes concurrently")
    queue_requests: int = option(64, "maximum queued requests of a release; more get 429")
    queue_tokens: int = option(400_000, "maximum prompt and new tokens of all requests of a release; more get 429")
    deadline_s: float = option(120.0, "seconds until a request ends: its answers end as they are")
    header_timeout_s: float = option(10.0, "seconds for a client to send its headers")
    body_timeout_s: float = option(30.0, "seconds for a client to send its body, else 408")
    write_timeout_s: float = option(30.0, "seconds for a client to read sent data, else it is disconnected")
    drain_s: float = option(30.0, "seconds for running requests to finish at a stop")

    def override(self, fixed: Mapping[str, int | float]) -> "Limits":
        """Return these limits with those in `fixed` replaced."""
        return decode(Limits, {**asdict(self), **fixed})

    def problems(self) -> list[str]:
        """Return an error for each invalid value."""
        return out_of_range(
            self,
            ("max_body_bytes", 1000, 64_000_000),
            ("max_json_depth", 4, 100),
            ("max_rows", 1, 100_000),
            ("max_n", *BOUNDS["n"]),
            ("max_new_tokens", *BOUNDS["max_tokens"]),
            ("max_running", 1, 256),
            ("queue_requests", 0, 100_000),
            ("queue_tokens", 1, 10**9),
            ("deadline_s", 0.1, 86_400),
            ("header_timeout_s", 0.1, 3600),
            ("body_timeout_s", 0.1, 3600),
            ("write_timeout_s", 0.1, 3600),
            ("drain_s", 0, 3600),
        )
