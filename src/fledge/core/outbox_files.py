"""Where an outbox's lines lie: files that are numbered in the order in which they were written."""

from pathlib import Path


def outbox_file(folder: Path, number: int) -> Path:
    """The file with this number."""
    return folder / f"outbox-{number:06}.jsonl"


def outbox_files(folder: Path) -> list[Path]:
    """The files that there are, oldest first."""
    return sorted(folder.glob("outbox-*.jsonl"))
