"""The notebook of the public API, run in a real kernel."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "comparison.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_tables(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "FLEDGE_"))}
    shutil.copy(NOTEBOOK, tmp_path)
    jupyter = Path(sys.executable).with_name("jupyter-execute")
    command = [str(jupyter), NOTEBOOK.name, "--inplace", "--kernel_name=python3"]
    subprocess.run(command, cwd=tmp_path, env=clean, check=True, capture_output=True, timeout=300)
    cells = json.loads((tmp_path / NOTEBOOK.name).read_text(encoding="utf-8"))["cells"]
    shown = [output["data"] for cell in cells for output in cell.get("outputs", ()) if "data" in output]
    tables = ["".join(data["text/html"]) for data in shown if "text/html" in data]
    assert len(tables) == 3
    assert all("<table" in table for table in tables)
    texts = " ".join("".join(data["text/plain"]) for data in shown)
    assert "48 answers, 0 failed; arms: simple, expert" in texts
    assert "('champion', None, 1)" in texts
    assert "Overfitting happens when a model learns the noise" in texts
