"""`monitor`: how an endpoint has done."""

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
    """Figures of the requests that are in the endpoint's outbox."""

    url: str
    slo: Health

    def as_dict(self) -> dict[str, Any]:
        return {"url": self.url, "slo": self.slo.as_dict(), "drift": None, "arms": []}


def monitor(url: str | None = None, *, workspace: Workspace | None = None) -> EndpointHealth:
    """Return how the endpoint at `url`, or the only one that runs here, has done since its outbox began.

    Raises `InputError` where no such endpoint runs here, or several do and none is named.
    """
    chosen = [item for item in status(workspace=workspace) if url in (None, item.url)]
    if len(chosen) != 1:
        raise InputError("name one endpoint that runs here", hint="fledge status")
    return EndpointHealth(chosen[0].url, summarize(read_outbox(Path(chosen[0].folder) / "outbox")))
