"""Build folders once, completely or not at all, and rebuild damaged ones.

`files.json` in a folder holds the SHA-256 of its files.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fledge.core import state
from fledge.core.digests import file_digest

DIGESTS = "files.json"


def is_whole(folder: Path) -> bool:
    """Return whether a folder is unchanged since it was built."""
    return bool(digests(folder))


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of a folder's files by relative path; empty if the folder is missing or was changed."""
    try:
        recorded = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        actual = _compute_digests(folder)
    except (OSError, ValueError):
        return {}
    return actual if recorded == actual else {}


@contextmanager
def build(folder: Path) -> Iterator[tuple[Path | None, int]]:
    """Yield a path to build `folder` at, None if it is complete already, and the descriptor of its lock.

    One process builds at a time; a child that inherits the descriptor keeps the lock.
    """
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_whole(folder):
            yield None, lock.fileno()
            return
        shutil.rmtree(folder, ignore_errors=True)
        working = folder.with_suffix(".part")
        shutil.rmtree(working, ignore_errors=True)  # left by a killed process
        try:
            yield working, lock.fileno()
            state.write_json(working / DIGESTS, _compute_digests(working))
            working.rename(folder)
        finally:
            shutil.rmtree(working, ignore_errors=True)


def _compute_digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): file_digest(path) for path in paths if path.name != DIGESTS}
