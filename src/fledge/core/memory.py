"""Memory of processes and of the machine, from Linux; 0 elsewhere."""

from collections.abc import Iterable
from pathlib import Path


def available_bytes() -> int:
    """Return the bytes available without swapping."""
    return _read_field(Path("/proc/meminfo"), "MemAvailable:")


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process with its part of shared memory (PSS), or its RSS if that is unknown."""
    return _read_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") or _read_field(Path(f"/proc/{pid}/status"), "VmRSS:")


def describe_shortage(pids: Iterable[int], what: str) -> str:
    """Return why another such process does not fit into memory, empty if it does. It is assumed to need as much as the
    largest."""
    need = max((proportional_bytes(pid) for pid in pids), default=0)
    free = available_bytes()
    if not free or need < free:
        return ""
    return (
        f"{what} needs about {need / 1e6:.0f} MB in addition to the old release, but only {free / 1e6:.0f} MB are free"
    )


def _read_field(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
