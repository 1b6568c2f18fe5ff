import time

from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.prompts.diff import DiffPart, word_diff


def test_diff_is_by_whole_words() -> None:
    assert word_diff("Answer the question.", "Answer each question.") == [
        DiffPart("equal", "Answer "),
        DiffPart("delete", "the"),
        DiffPart("insert", "each"),
        DiffPart("equal", " question."),
    ]


def test_equal_and_empty_texts() -> None:
    assert word_diff("same", "same") == [DiffPart("equal", "same")]
    assert word_diff("", "") == []
    assert word_diff("", "new") == [DiffPart("insert", "new")]
    assert word_diff("old", "") == [DiffPart("delete", "old")]


WORDS = st.lists(st.sampled_from(["the", "a", " ", "\n", "{{question}}", "😀", "\r\n", "-", "[-"]), max_size=30).map(
    "".join
)


@settings(deadline=None, database=None, max_examples=500)
@given(WORDS | st.text(), WORDS | st.text())
def test_parts_join_to_both_texts(a: str, b: str) -> None:
    parts = word_diff(a, b)
    assert "".join(part.text for part in parts if part.op != "insert") == a
    assert "".join(part.text for part in parts if part.op != "delete") == b
    assert all(part.text for part in parts)
    assert (a == b) == all(part.op == "equal" for part in parts)


def test_long_texts_are_fast() -> None:
    before = " ".join(f"the word {number % 50} of it" for number in range(4_000))
    started = time.perf_counter()
    parts = word_diff(before, before.replace("word 7", "number 7"))
    assert time.perf_counter() - started < 60
    assert DiffPart("insert", "number") in parts or len(parts) > 1
