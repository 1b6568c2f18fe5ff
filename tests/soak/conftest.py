"""Print the figures of each fault, and write them to the file FLEDGE_TEST_TABLE, which `make soak` sets."""

import os
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import pytest

from fledge.supervision.config import ServeConfig
from tests.serving.harness import create_workspace
from tests.soak.table import Fault, Figures, format_figures, format_row, write_row

PASSED = pytest.StashKey[bool]()
TABLE = Path(os.environ["FLEDGE_TEST_TABLE"]).absolute() if "FLEDGE_TEST_TABLE" in os.environ else None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(about): a row of the table of faults")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def figures(request: pytest.FixtureRequest, times: int) -> Iterator[Figures]:
    """Collect the measurements of a fault test: lists of numbers by name."""
    found: Figures = defaultdict(list)
    yield found
    (about,) = request.node.get_closest_marker("fault").args
    assert isinstance(about, Fault)
    seen = format_figures(found) if request.node.stash.get(PASSED, False) else f"FAILED; {format_figures(found)}"
    line = format_row(about, times, seen)
    print(f"\n{line}")
    if TABLE and request.node.get_closest_marker("soak"):
        write_row(TABLE, line)


@pytest.fixture
def config(tmp_path: Path, engine_cache: Path, empty_store: Path) -> ServeConfig:
    """Settings to serve `mine/1` (champion) and `mine/2` (challenger) of the embedded model, with its own store."""
    copyfile(empty_store, tmp_path / "mlflow.db")
    return replace(create_workspace(tmp_path, engine_cache, versions=2), record=True)
