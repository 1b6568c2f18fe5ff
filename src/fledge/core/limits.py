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

    max_body_bytes: int = option(1_000_000, "largest body of a request, in bytes")
    max_json_depth: int = option(32, "how deep JSON may be nested")
    max_rows: int = option(1000, "most rows or prompts of a request")
    max_n: int = option(8, "most answers to one prompt")
    max_new_tokens: int = option(4096, "most new tokens that a request may ask for")
    max_running: int = option(64, "answers that a release computes at once")
    queue_requests: int = option(64, "requests that may wait for a release; beyond, 429")
    queue_tokens: int = option(400_000, "tokens, read and new, of all requests of a release; beyond, 429")
    deadline_s: float = option(120.0, "seconds that a request may take; its answers then end as they are")
    header_timeout_s: float = option(10.0, "seconds that a client may take to send its headers")
    body_timeout_s: float = option(30.0, "seconds that a client may take to send its body; beyond, 408")
    write_timeout_s: float = option(30.0, "seconds that a client may take to read what was sent; beyond, hung up")
    drain_s: float = option(30.0, "seconds that running requests get to finish at a stop")

    def override(self, fixed: Mapping[str, int | float]) -> "Limits":
        """Return these limits with those in `fixed` replaced."""
        return decode(Limits, {**asdict(self), **fixed})

    def problems(self) -> list[str]:
        """Return the errors of all invalid values."""
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
