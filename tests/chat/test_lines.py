"""Entries out of lines."""

import pytest

from fledge.chat.lines import Entry, read_entry
from fledge.core.errors import InputError


class Lines:
    """Gives lines one by one, and notes which of them were asked for as a line that goes on."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)
        self.going_on: list[bool] = []

    def __call__(self, goes_on: bool) -> str:
        self.going_on.append(goes_on)
        if not self._lines:
            raise EOFError
        return self._lines.pop(0)


def test_a_line_is_an_entry_and_blank_ones_are_passed_over() -> None:
    lines = Lines("", "  ", "one", "two")
    assert [read_entry(lines), read_entry(lines)] == [Entry("one"), Entry("two")]
    with pytest.raises(EOFError):
        read_entry(lines)


def test_a_backslash_at_the_end_goes_on() -> None:
    lines = Lines("one\\", "two\\", "three", "four")
    assert read_entry(lines) == Entry("one\ntwo\nthree")
    assert lines.going_on == [False, True, True]
    assert read_entry(Lines("one\\", "", "three")) == Entry("one")
    assert read_entry(Lines("one\\")) == Entry("one")


def test_a_block_is_as_it_stands() -> None:
    lines = Lines('"""', "/exit \\", "", '  x = """y"""', ' """ ', "next")
    assert read_entry(lines) == Entry('/exit \\\n\n  x = """y"""', is_block=True)
    assert lines.going_on == [False, True, True, True, True]
    assert read_entry(lines) == Entry("next")
    assert read_entry(Lines('"""', '"""', "after an empty one")) == Entry("after an empty one")


def test_a_block_without_end_is_not_asked() -> None:
    lines = Lines('"""', "half a question")
    with pytest.raises(InputError, match="has no end"):
        read_entry(lines)
    with pytest.raises(EOFError):
        read_entry(lines)
