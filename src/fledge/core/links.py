"""Hard links between files that are never changed in place."""

import os
import shutil
from pathlib import Path


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file; copy it if the file system cannot link, or if the file belongs to another user."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_uid == os.getuid() and not source.is_symlink():
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or no support for links
            pass
        else:
            return
    shutil.copyfile(source, target)
