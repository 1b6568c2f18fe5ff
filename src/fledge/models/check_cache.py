"""Checks that read a whole file: run once for each content on this machine, and remembered by its digest."""

import contextlib
from collections.abc import Callable

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.settings import user_cache


def once(kind: str, digest: str, check: Callable[[], None]) -> None:
    """Run `check` unless it already passed for this digest; failures are not cached."""
    marker = user_cache() / "checked" / f"{kind}-{digest}"
    if marker.exists():
        return
    check()
    with contextlib.suppress(OSError, FledgeError):  # it is checked again, then
        state.ensure(marker.parent)
        marker.touch(mode=0o600)
