"""`monitor`: request statistics of an endpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.monitoring.health import Health, summarize
from fledge.serving.outbox_reader import read_outbox
from fledge.supervision.endpoints import status


@dataclass(frozen=True)
class EndpointHealth:
    """Figures of the requests in the endpoint's outbox."""

    url: str
    slo: Health

    def as_dict(self) -> dict[str, Any]:
        return {"url": self.url, "slo": self.slo.as_dict(), "drift": None, "arms": []}


def monitor(url: str | None = None, *, workspace: Workspace | None = None) -> EndpointHealth:
    """Return the figures of the endpoint at `url`, by default the only one running here.

    Raises `InputError` if no such endpoint is running, or several are and `url` is None.
    """
    chosen = [item for item in status(workspace=workspace) if url in (None, item.url)]
    if len(chosen) != 1:
        raise InputError("name one running endpoint", hint="fledge status")
    return EndpointHealth(chosen[0].url, summarize(read_outbox(Path(chosen[0].folder) / "outbox")))
