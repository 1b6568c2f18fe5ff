"""Write the table of packages in `docs/architecture.md` from their docstrings: `python tools/packages.py`."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
HEAD = "| package | what is in it |\n|---|---|\n"


def create_table() -> str:
    """Return the table: a row for each package with its docstring, in the order of the import layers."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [name.strip() for layer in layers for name in layer.split("|")]
    return HEAD + "".join(_create_row(name) for name in names if (ROOT / "src" / "fledge" / name).is_dir())


def update_table(text: str) -> str:
    """Return the text of the document with a new table."""
    start = text.index(HEAD)
    return text[:start] + create_table() + text[text.index("\n\n", start) + 1 :]


def _create_row(name: str) -> str:
    source = (ROOT / "src" / "fledge" / name / "__init__.py").read_text(encoding="utf-8")
    text = " ".join((ast.get_docstring(ast.parse(source)) or "").split()).replace("|", "\\|")
    return f"| `{name}/` | {text} |\n"


if __name__ == "__main__":
    DOCUMENT.write_text(update_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
