"""`docs/architecture.md` describes the packages and files that exist."""

import re
from pathlib import Path

import pytest

from tests.tools import load_tool

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = {path.relative_to(ROOT / "src" / "fledge").as_posix() for path in (ROOT / "src" / "fledge").rglob("*.py")}
NAMES = {Path(name).name for name in FILES}


def test_package_table_matches_the_docstrings() -> None:
    assert load_tool("packages").update_table(TEXT) == TEXT, "update it: python tools/packages.py"
    assert "|  |" not in TEXT, "a package's __init__.py lacks a docstring"


@pytest.mark.parametrize("mentioned", sorted(set(re.findall(r"`([\w/]+\.py)`", TEXT))))
def test_every_mentioned_file_exists(mentioned: str) -> None:
    assert mentioned in FILES or mentioned in NAMES or (ROOT / mentioned).is_file()
