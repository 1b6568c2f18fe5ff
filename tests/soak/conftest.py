"""Each fault's figures are printed, and kept in the file that FLEDGE_TEST_TABLE names, as `make soak` does it."""

import os
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import pytest

from fledge.supervision.config import ServeConfig
from tests.serving.harness import create_workspace
from tests.soak.table import Fault, Figures, put, row, words

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
    """Where a test of a fault leaves what it saw: lists of numbers by what they are."""
    found: Figures = defaultdict(list)
    yield found
    (about,) = request.node.get_closest_marker("fault").args
    assert isinstance(about, Fault)
    seen = words(found) if request.node.stash.get(PASSED, False) else f"FAILED; {words(found)}"
    line = row(about, times, seen)
    print(f"\n{line}")
    if TABLE and request.node.get_closest_marker("soak"):
        put(TABLE, line)


@pytest.fixture
def config(tmp_path: Path, engine_cache: Path, empty_store: Path) -> ServeConfig:
    """How to serve `mine/1` (champion) and `mine/2` (challenger) of the embedded model, recorded in a store of the
    test's own."""
    copyfile(empty_store, tmp_path / "mlflow.db")
    return replace(create_workspace(tmp_path, engine_cache, versions=2), record=True)
