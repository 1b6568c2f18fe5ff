"""Memory of processes and of the machine on Linux; 0 on other systems."""

from collections.abc import Iterable
from pathlib import Path


def available_bytes() -> int:
    """Return the bytes available without swapping."""
    return _field(Path("/proc/meminfo"), "MemAvailable:")


def proportional_bytes(pid: int) -> int:
    """Return a process's proportional set size, or its resident set size if that is unknown, in bytes."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") or _field(Path(f"/proc/{pid}/status"), "VmRSS:")


def lacking(pids: Iterable[int], what: str) -> str:
    """Return why one more such process does not fit in memory, empty if it does. It is assumed to need as much as the
    largest."""
    need = max((proportional_bytes(pid) for pid in pids), default=0)
    free = available_bytes()
    if not free or need < free:
        return ""
    return f"{what} needs about {need / 1e6:.0f} MB beside the old release, and {free / 1e6:.0f} MB are free"


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
