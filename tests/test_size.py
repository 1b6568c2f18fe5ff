"""Limits of files, functions and class names."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fledge

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def _find_too_long(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if len(text.splitlines()) > MAX_FILE_LINES:
        yield str(path)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES:
            yield f"{path}: {node.name}"


def test_files_and_functions_are_short() -> None:
    paths = [*Path(fledge.__file__).parent.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    assert [found for path in paths for found in _find_too_long(path)] == []


def test_public_class_names_are_unique() -> None:
    found = Counter(
        node.name
        for path in Path(fledge.__file__).parent.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in found.items() if count > 1] == []
