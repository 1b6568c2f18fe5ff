"""What has grown too long to be read at once is looked at a second time."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fledge

LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60


def _too_long(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if len(text.splitlines()) > LINES_OF_A_FILE:
        yield str(path)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if (node.end_lineno or 0) - node.lineno >= LINES_OF_A_FUNCTION:
            yield f"{path}: {node.name}"


def test_files_and_functions_are_short() -> None:
    paths = [*Path(fledge.__file__).parent.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    assert [found for path in paths for found in _too_long(path)] == []


def test_one_name_has_one_meaning() -> None:
    """No two public classes share a name."""
    found = Counter(
        node.name
        for path in Path(fledge.__file__).parent.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in found.items() if count > 1] == []
