"""`state.json`: the published state of a running endpoint."""

import contextlib
from dataclasses import asdict
from pathlib import Path

from fledge.core import state
from fledge.core.endpoint_state import EndpointState


class StateFile:
    """Writes the state when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: EndpointState | None = None

    def write(self, content: EndpointState) -> None:
        """Write `content` if it changed. A full disk is ignored; the next call tries again."""
        if content != self._written:
            with contextlib.suppress(OSError):
                state.write_json(self._path, asdict(content))
                self._written = content

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
