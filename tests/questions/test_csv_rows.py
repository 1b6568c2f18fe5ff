"""CSV files with a header below other lines, or an unusual separator."""

from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.questions.layout import PLAIN, QuestionLayout
from fledge.questions.sources import read, read_questions

NOTICE = '"Please, do not train\non these.",,\n,,\n'  # as in FreshQA, over two lines


def _hint(path: Path, text: str, layout: QuestionLayout = PLAIN) -> str:
    """Return the hint of the error for a file with this text."""
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_questions(path, layout=layout)
    return caught.value.hint


def test_header_below_a_notice_needs_header_row(tmp_path: Path) -> None:
    path = tmp_path / "fresh.csv"
    path.write_text(f"{NOTICE}id,split,question\n0,TEST,Who is it?\n1,DEV\n")
    with pytest.raises(InputError, match="line 1: no column 'question' in the header, but line 4 looks like") as caught:
        read_questions(path)
    assert caught.value.hint == "--header-row 4"
    reading = read(path, layout=QuestionLayout(header_row=4))
    assert [(item.id, item.split, item.question) for item in reading.questions] == [("0", "TEST", "Who is it?")]
    assert [(error.line, error.kind) for error in reading.errors] == [(6, "syntax")]


@pytest.mark.parametrize(
    ("rows", "columns", "hint"),
    [
        ("id;Question\n0;Who?\n", ("question=Question",), "--header-row 4"),
        ("id,Question\n0,Who?\n", (), "--header-row 4 --columns question=Question"),
        ("id|question\n0|Who?\nid|question\n", (), "--header-row 4 or --header-row 6"),
    ],
)
def test_hint_names_the_likely_header(tmp_path: Path, rows: str, columns: tuple[str, ...], hint: str) -> None:
    assert _hint(tmp_path / "a.csv", NOTICE + rows, QuestionLayout(columns)) == hint


def test_header_below_an_excel_preamble_needs_header_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert _hint(path, "sep=;\nid;question\n1;a?\n") == "--header-row 2"
    assert read_questions(path, layout=QuestionLayout(header_row=2)).questions[0].question == "a?"


def test_a_row_with_the_word_question_is_not_a_header(tmp_path: Path) -> None:
    hint = _hint(tmp_path / "a.csv", "id,Question\n1,question\n")
    assert hint == "give the question column: --columns question=Question"


def test_header_row_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question\na?\n")
    with pytest.raises(InputError) as caught:
        read_questions(path, layout=QuestionLayout(header_row=9))
    assert caught.value.hint == "--header-row 1"


def test_empty_unnamed_columns_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,,\na?,,\n")
    assert read_questions(path).questions[0].columns == {}
