"""Cache of passed checks, by digest: a check that reads a whole file runs once for each content."""

import contextlib
from collections.abc import Callable

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.settings import user_cache


def run_once(kind: str, digest: str, check: Callable[[], None]) -> None:
    """Run `check` unless it already passed for this digest; failures are not cached."""
    marker = user_cache() / "checked" / f"{kind}-{digest}"
    if marker.exists():
        return
    check()
    with contextlib.suppress(OSError, FledgeError):  # without a marker, the check just runs again
        state.ensure(marker.parent)
        marker.touch(mode=0o600)
