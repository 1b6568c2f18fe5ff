"""The map of the code, `docs/architecture.md`, shows what is there."""

import re
from pathlib import Path

import pytest

from tests.tools import load_tool

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = {path.relative_to(ROOT / "src" / "fledge").as_posix() for path in (ROOT / "src" / "fledge").rglob("*.py")}
NAMES = {Path(name).name for name in FILES}


def test_the_table_of_packages_is_that_of_their_docstrings() -> None:
    assert load_tool("packages").replaced(TEXT) == TEXT, "write it anew: python tools/packages.py"
    assert "|  |" not in TEXT, "each package says in its __init__.py what it is for"


@pytest.mark.parametrize("mentioned", sorted(set(re.findall(r"`([\w/]+\.py)`", TEXT))))
def test_every_file_that_the_map_names_is_there(mentioned: str) -> None:
    assert mentioned in FILES or mentioned in NAMES or (ROOT / mentioned).is_file()
