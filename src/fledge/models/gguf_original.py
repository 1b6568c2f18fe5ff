"""The GGUF file that a snapshot was converted from; llama.cpp runs it as it is."""

from pathlib import Path

ORIGINAL = "model.gguf"  # beside the folder of the snapshot


def find_original(snapshot: Path) -> Path | None:
    """Return the GGUF file that a snapshot folder was converted from, None for other folders."""
    file = snapshot.parent / ORIGINAL
    return file if file.is_file() else None
