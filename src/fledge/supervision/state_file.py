"""`state.json`: what others may know of a running endpoint."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fledge.core import state


class StateFile:
    """Written when there is news."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: Mapping[str, Any] = {}

    def write(self, content: Mapping[str, Any]) -> None:
        """A full disk ends no endpoint: it is tried again at the next call."""
        if content != self._written:
            with contextlib.suppress(OSError):
                state.write_json(self._path, content)
                self._written = content

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
