"""Reading of entries from lines."""

import pytest

from fledge.chat.lines import Entry, read_entry
from fledge.core.errors import InputError


class Lines:
    """Returns lines one by one, and records for each read whether it continued an entry."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)
        self.continued: list[bool] = []

    def __call__(self, continues: bool) -> str:
        self.continued.append(continues)
        if not self._lines:
            raise EOFError
        return self._lines.pop(0)


def test_each_line_is_an_entry_and_blank_lines_are_skipped() -> None:
    lines = Lines("", "  ", "one", "two")
    assert [read_entry(lines), read_entry(lines)] == [Entry("one"), Entry("two")]
    with pytest.raises(EOFError):
        read_entry(lines)


def test_backslash_continues_an_entry() -> None:
    lines = Lines("one\\", "two\\", "three", "four")
    assert read_entry(lines) == Entry("one\ntwo\nthree")
    assert lines.continued == [False, True, True]
    assert read_entry(Lines("one\\", "", "three")) == Entry("one")
    assert read_entry(Lines("one\\")) == Entry("one")


def test_block_is_kept_verbatim() -> None:
    lines = Lines('"""', "/exit \\", "", '  x = """y"""', ' """ ', "next")
    assert read_entry(lines) == Entry('/exit \\\n\n  x = """y"""', is_block=True)
    assert lines.continued == [False, True, True, True, True]
    assert read_entry(lines) == Entry("next")
    assert read_entry(Lines('"""', '"""', "after an empty one")) == Entry("after an empty one")


def test_block_without_an_end_is_refused() -> None:
    lines = Lines('"""', "half a question")
    with pytest.raises(InputError, match="has no end"):
        read_entry(lines)
    with pytest.raises(EOFError):
        read_entry(lines)
