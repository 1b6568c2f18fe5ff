"""Read names from docs/json.md."""

import re
from pathlib import Path

REFERENCE = Path(__file__).parents[2] / "docs" / "json.md"


def documented_names(command: str) -> set[str]:
    """Return the names in the row of a command, and in the row that `as above` refers to."""
    rows = {
        line.split("`")[1]: line for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    }
    text = rows[command] + (rows["bench engine"] if "as above" in rows[command] else "")
    return set(re.findall(r"`([a-z0-9_]+)(?:\[\])?`", text.split("|", 2)[2]))
