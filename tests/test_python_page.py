"""The examples of `docs/python.md`, run from top to bottom as one program."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fledge
from fledge.core.settings import Workspace
from fledge.supervision.endpoints import status, stop

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]


@pytest.fixture
def stop_endpoints(workspace: Workspace) -> Iterator[None]:
    yield
    for endpoint in status(workspace=workspace):
        stop(int(endpoint.url.rpartition(":")[2]), workspace=workspace)


@pytest.mark.slow
@pytest.mark.usefixtures("stop_endpoints")
def test_the_examples_run_in_order(tmp_path: Path, port: int) -> None:
    program = tmp_path / "page.py"
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)), encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**environ, "FLEDGE_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for text in (
        "Overfitting happens when a model learns the noise",
        "dataset:basics/1 3",
        "24 answers, 0 failed; arms: simple, short",
        "128 questions to each arm",
        "assistant@champion: None -> 1, passed token_f1>=0.5",
        "rollback 2 1 False\npromote 1 2 True\npromote None 1 False",
        "True ['health', 'ready', 'invocations', 'chat', 'bad input']",
        "the experiment has no metric 'beauty'; --sort one of: token_f1",
    ):
        assert text in done.stdout


def test_the_page_mentions_every_function_and_error() -> None:
    public = {name: getattr(fledge, name) for name in fledge.__all__}
    functions = {f"fledge.{name}" for name, item in public.items() if inspect.isfunction(item)}
    errors = {f"`{name}`" for name, item in public.items() if isinstance(item, type) and issubclass(item, Exception)}
    assert {name for name in functions if not re.search(rf"{re.escape(name)}\b", PAGE)} == set()
    assert {name for name in errors - {"`FledgeError`"} if name not in PAGE} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_and_examples_use_public_names_only(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = text if page.suffix == ".py" else "\n".join(re.findall(r"```py(?:thon)?\n(.*?)```", text, flags=re.DOTALL))
    assert set(re.findall(r"\bfledge\.([A-Za-z_]\w*)\(", code)) <= set(fledge.__all__)
    assert not re.search(r"^\s*(from fledge\b|import fledge\.)", code, flags=re.MULTILINE)
