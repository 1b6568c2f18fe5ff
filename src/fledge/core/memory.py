"""Memory of processes and of the machine, as Linux tells it; 0 where nothing does."""

from collections.abc import Iterable
from pathlib import Path


def available_bytes() -> int:
    """Return the bytes available without swapping."""
    return _field(Path("/proc/meminfo"), "MemAvailable:")


def proportional_bytes(pid: int) -> int:
    """A process's memory, with its share of what it shares; all of that where the system does not tell."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") or _field(Path(f"/proc/{pid}/status"), "VmRSS:")


def lacking(pids: Iterable[int], what: str) -> str:
    """Why one more process of their kind does not fit here, empty where it does: it is taken to need as much as the
    largest has."""
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
