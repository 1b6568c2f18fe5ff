"""Imports form no cycle, and an import inside a function defers something large."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fledge

ROOT = Path(fledge.__file__).parent
# Slow to load, or part of an extra.
LARGE = {
    *("datasets", "gguf", "huggingface_hub", "langchain_core", "matplotlib", "mlflow", "model_signing", "nncf"),
    *(
        "openvino",
        "openvino_genai",
        "openvino_tokenizers",
        "opentelemetry",
        "optimum",
        "pandas",
        "py3langid",
        "pyarrow",
        "rouge_score",
    ),
    *("sacrebleu", "scipy", "statsmodels", "tokenizers", "torch", "transformers"),
}
# Entry points, which start fast and load the rest on use.
EDGE = ("fledge", "fledge.cli", "fledge.pytest_plugin", "fledge.bench")
LIGHT = {
    "readline": "for terminals only, and not on every system",
    "urllib.request": "0.1 s, only for the hint of an unexpected error",
    "fledge.core.installation": "only for the error of a missing extra",
    "fledge.models.gguf": "imports snapshot.py, which imports it",
    "fledge.chat.endpoint_partner": "httpx, not needed for a chat with a local model",
    "fledge.engines.remote": "httpx, not needed for a local model",
}


def _modules() -> dict[str, Path]:
    names = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        names[name.removesuffix(".__init__")] = path
    return names


MODULES = _modules()


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in MODULES else node.module
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each imported module, and whether the import is inside a function; omits imports for type checking."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        yield from ((target, inside) for target in _targets(node))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


GRAPH = {name: list(_imports(path)) for name, path in MODULES.items()}


def _large(name: str, known: dict[str, bool], graph: Mapping[str, list[tuple[str, bool]]] = GRAPH) -> bool:
    """Return whether loading a module loads something large."""
    if name not in graph:
        return name.partition(".")[0] in LARGE
    if name not in known:
        known[name] = False
        known[name] = any(_large(target, known) for target, inside in graph[name] if not inside)
    return known[name]


def test_imports_form_no_cycle() -> None:
    own = {name: {target for target, _ in found if target in MODULES} - {name} for name, found in GRAPH.items()}
    try:
        list(TopologicalSorter(own).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_an_import_inside_a_function_defers_something_large() -> None:
    known: dict[str, bool] = {}
    idle = [
        f"{name}: {target}"
        for name, found in GRAPH.items()
        if not (name == "fledge" or name.startswith(tuple(f"{edge}." for edge in EDGE[1:])) or name in EDGE)
        for target, inside in found
        if inside and target not in LIGHT and not _large(target, known)
    ]
    assert idle == []
