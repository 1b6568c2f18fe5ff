"""The files of an outbox, numbered in the order of writing."""

from pathlib import Path


def outbox_file(folder: Path, number: int) -> Path:
    """Return the file with this number."""
    return folder / f"outbox-{number:06}.jsonl"


def outbox_files(folder: Path) -> list[Path]:
    """Return the existing files, oldest first."""
    return sorted(folder.glob("outbox-*.jsonl"))
