"""Write the table of packages in `docs/architecture.md` from their docstrings: `python tools/packages.py`."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
HEAD = "| package | what is in it |\n|---|---|\n"


def table() -> str:
    """A row for each package with its docstring, in the order in which imports run."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [name.strip() for layer in layers for name in layer.split("|")]
    return HEAD + "".join(_row(name) for name in names if (ROOT / "src" / "fledge" / name).is_dir())


def replaced(text: str) -> str:
    """The document with the table as it is to be."""
    start = text.index(HEAD)
    return text[:start] + table() + text[text.index("\n\n", start) + 1 :]


def _row(name: str) -> str:
    source = (ROOT / "src" / "fledge" / name / "__init__.py").read_text(encoding="utf-8")
    text = " ".join((ast.get_docstring(ast.parse(source)) or "").split()).replace("|", "\\|")
    return f"| `{name}/` | {text} |\n"


if __name__ == "__main__":
    DOCUMENT.write_text(replaced(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
