"""Memory of processes and of the machine, as Linux tells it; 0 where nothing does."""

from pathlib import Path


def available_bytes() -> int:
    """What could be used without swapping."""
    return _field(Path("/proc/meminfo"), "MemAvailable:")


def proportional_bytes(pid: int) -> int:
    """A process's memory, with its share of what it shares."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
