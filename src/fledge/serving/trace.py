"""What is noted of one request on its way, until it goes to the outbox."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from fledge.core.messages import OutboxRecord
from fledge.models.manifest import Manifest
from fledge.serving.engine_client import Result


@dataclass
class RequestTrace:
    """One request: what it asked and, in the end, one outcome."""

    route: str
    inputs: Any
    prompt_text: str = ""
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    started_ns: int = field(default_factory=time.time_ns)
    result: Result = field(default_factory=Result)

    def finish(self, manifest: Manifest, status: int, error: str) -> OutboxRecord:
        """The record of the request as it ended now."""
        return OutboxRecord(
            trace_id=f"tr-{self.request_id}",
            request_id=self.request_id,
            route=self.route,
            release=manifest.name,
            version=manifest.version,
            prompt=manifest.prompt_label if self.route == "invocations" else "",
            status=status,
            started_ns=self.started_ns,
            ended_ns=time.time_ns(),
            first_token_ns=self.result.first_token_ns,
            inputs=self.inputs,
            prompt_text=self.prompt_text,
            output=self.result.text,
            prompt_tokens=self.result.prompt_tokens,
            completion_tokens=self.result.completion_tokens,
            finish_reason=self.result.finish_reason,
            error=error,
        )
