"""The state folder: private, written atomically, checked before work starts."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from fledge.core.errors import FledgeError

MINIMUM_FREE_BYTES = 200_000_000


def ensure(folder: Path) -> Path:
    """Create `folder` and its missing parents with mode 0700, and return it."""
    try:
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(exist_ok=True)  # raises if a file has the name
    except OSError as error:
        raise FledgeError(f"cannot create {folder}: {error.strerror}", hint="choose another folder") from None
    return folder


def check_writable(folder: Path, need_bytes: int = MINIMUM_FREE_BYTES) -> None:
    """Raise `FledgeError` unless `folder` is writable and has `need_bytes` free."""
    ensure(folder)
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise FledgeError(
            f"not enough space in {folder}: {free / 1e6:.0f} MB free, {need_bytes / 1e6:.0f} MB needed",
            hint="free some space, or use another folder",
        )
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
    except OSError as error:
        raise FledgeError(f"cannot write in {folder}: {error.strerror}", hint="use a writable folder") from None


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to append to; create it with mode 0600 if missing."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path` atomically, with mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # for example a full disk
        temporary.unlink(missing_ok=True)
        raise
