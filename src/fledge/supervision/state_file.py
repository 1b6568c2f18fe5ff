"""`state.json`: what others may know of a running endpoint."""

import contextlib
from dataclasses import asdict
from pathlib import Path

from fledge.core import state
from fledge.core.endpoint_state import EndpointState


class StateFile:
    """Written when there is news."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: EndpointState | None = None

    def write(self, content: EndpointState) -> None:
        """A full disk ends no endpoint: it is tried again at the next call."""
        if content != self._written:
            with contextlib.suppress(OSError):
                state.write_json(self._path, asdict(content))
                self._written = content

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
