"""No two files import each other, and an import inside a function defers something large."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fledge

ROOT = Path(fledge.__file__).parent
# What takes long to load, or belongs to an extra.
LARGE = {
    *("datasets", "gguf", "huggingface_hub", "langchain_core", "matplotlib", "mlflow", "model_signing", "nncf"),
    *("openvino", "openvino_genai", "opentelemetry", "optimum", "pandas", "py3langid", "pyarrow", "rouge_score"),
    *("sacrebleu", "scipy", "statsmodels", "tokenizers", "torch", "transformers"),
}
# The edge: what starts quickly although what it offers does not.
EDGE = ("fledge", "fledge.cli", "fledge.pytest_plugin", "fledge.bench")
LIGHT = {
    "readline": "a terminal's, and not on every system",
    "urllib.request": "0.1 s of a defect's hint",
    "fledge.core.installation": "only an error about a missing extra asks it, in every process",
    "fledge.models.gguf": "which snapshot.py needs, and which makes snapshots itself",
    "fledge.chat.endpoint_partner": "httpx, which a chat with a local model does without",
    "fledge.engines.remote": "httpx, which a local model does without",
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
    """Each module that is imported, and whether it is inside a function; not what only types need."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        yield from ((target, inside) for target in _targets(node))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


GRAPH = {name: list(_imports(path)) for name, path in MODULES.items()}


def _large(name: str, known: dict[str, bool], graph: Mapping[str, list[tuple[str, bool]]] = GRAPH) -> bool:
    """Whether loading a module loads something large."""
    if name not in graph:
        return name.partition(".")[0] in LARGE
    if name not in known:
        known[name] = False
        known[name] = any(_large(target, known) for target, inside in graph[name] if not inside)
    return known[name]


def test_no_files_import_each_other() -> None:
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
