"""Layouts of published question sets."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from fledge.core.errors import InputError
from fledge.core.settings import load
from fledge.questions import layout as layout_module
from fledge.questions.layout import QuestionLayout
from fledge.questions.sources import read, read_questions

SUMS = [  # as in GSM8K
    {"question": "How many eggs?", "answer": "16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n#### 9 * 2 first\n#### 18"},
    {"question": "How many bolts?", "answer": "2/2=1\n#### 1,003"},
]
TURNS = [  # as in MT-bench
    {"question_id": 81, "category": "writing", "turns": ["Write a post.", "Rewrite it."]},
    {"question_id": 101, "category": "reasoning", "turns": ["Which place?", "And now?"], "reference": ["Second.", ""]},
]
MYTHS = "Type,Category,Question,Best Answer\nAdversarial,Health,Why blue?,It is not.\n"  # as in TruthfulQA


def _jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_with_spaces_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "myths.csv"
    path.write_text(MYTHS)
    columns = load(QuestionLayout, {"columns": 'question=Question,reference="Best Answer",topic=Category'}).value
    (item,) = read_questions(path, layout=columns).questions
    assert (item.question, item.reference, item.topic) == ("Why blue?", "It is not.", "Health")
    assert item.columns == {"Type": "Adversarial"}
    same = QuestionLayout(("question=Question", "reference=Best Answer", "topic=Category"))
    assert read_questions(path, layout=same).questions == (item,)


def test_column_with_a_comma_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('question,"Answer, if any",kind\na?,b,c\n')
    columns = load(QuestionLayout, {"columns": "reference=Answer, if any,topic=kind"}).value
    (item,) = read_questions(path, layout=columns).questions
    assert (item.reference, item.topic) == ("b", "c")


def test_paths_into_nested_values(tmp_path: Path) -> None:
    columns = QuestionLayout(("id=question_id", "question=turns.0", "reference=reference.0", "topic=category"))
    reading = read(_jsonl(tmp_path / "turns.jsonl", TURNS), layout=columns)
    first, second = reading.question_set().questions
    assert (first.id, first.question, first.reference, first.topic) == ("81", "Write a post.", None, "writing")
    assert (second.reference, second.columns) == ("Second.", {"turns": '["Which place?", "And now?"]'})
    assert [note.message for note in reading.notes] == ["no 'reference.0' in 1 of 2 rows, the first on line 1"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"question": "a?", "answer": {"value": "yes", "aliases": []}}\n'),
        ("a.csv", 'question,answer\na?,"{""value"": ""yes""}"\n'),
        ("a.yaml", "- question: a?\n  answer: {value: yes}\n"),
    ],
)
def test_paths_in_every_format(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (item,) = read_questions(tmp_path / name, layout=QuestionLayout(("reference=answer.value",))).questions
    assert item.reference == "yes"


def test_a_column_with_a_dot_in_its_name_is_not_a_path(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", [{"question": "a?", "answer.value": "x", "answer": {"value": "y"}}])
    assert read_questions(path, layout=QuestionLayout(("reference=answer.value",))).questions[0].reference == "x"


def test_columns_can_be_swapped(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", [{"question": "Paris", "reference": "Capital of France?"}])
    (item,) = read_questions(path, layout=QuestionLayout(("question=reference", "reference=question"))).questions
    assert (item.question, item.reference, item.columns) == ("Capital of France?", "Paris", {})


def test_a_column_missing_from_all_rows_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "myths.csv"
    path.write_text(MYTHS)
    with pytest.raises(InputError) as caught:
        read_questions(path, layout=QuestionLayout(("question=Question", "reference=Best Anwser", "topic=category")))
    assert "no column 'Best Anwser' and no 'category', only 'Type', 'Category', 'Quest" in caught.value.message
    assert caught.value.hint == "--columns 'question=Question,reference=Best Answer,topic=Category'"
    with pytest.raises(InputError, match=r"no column 'turns.2', only 'question_id'"):
        read_questions(_jsonl(tmp_path / "turns.jsonl", TURNS), layout=QuestionLayout(("question=turns.2",)))


def test_error_names_the_row_without_a_question(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", [*TURNS, {"question_id": 3, "turns": []}, {"question_id": 4, "turns": "x"}])
    reading = read(path, layout=QuestionLayout(("question=turns.0", "reference=category")))
    assert [(error.line, error.message) for error in reading.errors] == [(3, "no 'turns.0'"), (4, "no 'turns.0'")]


def test_hint_for_a_list_selects_a_part(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2: 'reference' is a list") as caught:
        read_questions(_jsonl(tmp_path / "turns.jsonl", TURNS), layout=QuestionLayout(("question=turns.0",)))
    assert "--columns question=turns.0,reference=reference.0" in caught.value.hint
    with pytest.raises(InputError, match="line 2: 'reference' is a list"):
        read_questions(_jsonl(tmp_path / "turns.jsonl", TURNS), layout=QuestionLayout(("question=turns.0",), "S.+"))


def test_the_reference_is_the_last_match(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "sums.jsonl", SUMS)
    found = [
        [
            item.reference
            for item in read_questions(path, layout=QuestionLayout(("reference=answer",), pattern)).questions
        ]
        for pattern in ("#### (.+)", "[0-9,]+", "(?:#### )([0-9]+)$|[0-9,]+$")
    ]
    assert found == [["18", "1,003"], ["18", "1,003"], ["18", "1,003"]]


def test_errors_name_the_rows_that_a_pattern_does_not_match(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "sums.jsonl", [*SUMS, {"question": "Without one?"}, {"question": "c?", "answer": "none"}])
    layout = QuestionLayout(("reference=answer",), "#### (.+)")
    with pytest.raises(InputError, match=r"line 4: the reference 'none' does not match '#### \(\.\+\)'") as caught:
        read_questions(path, layout=layout)
    assert "a pattern that matches all" in caught.value.hint
    assert [error.line for error in read(path, layout=layout).errors] == [4]
    with pytest.raises(InputError, match=r"\(and 1 more\)") as caught:
        read_questions(path, layout=QuestionLayout(("reference=answer",), "#### ([0-9]+)$"))
    assert f"validate {path} --columns reference=answer --reference-pattern '#### ([0-9]+)$'" in caught.value.hint


def test_a_pattern_without_any_match_is_an_error(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "sums.jsonl", SUMS)
    with pytest.raises(InputError, match=r"no reference matches 'A: \(\.\*\)'; on line 1, the reference '16"):
        read_questions(path, layout=QuestionLayout(("reference=answer",), "A: (.*)"))
    with pytest.raises(InputError, match="no references for the pattern") as caught:
        read_questions(path, layout=QuestionLayout((), "#### (.+)"))
    assert caught.value.hint == "--columns reference=answer"


def test_a_slow_pattern_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_module, "LONGEST_MATCHING_S", 0.2)
    path = _jsonl(tmp_path / "a.jsonl", [{"question": f"{n}?", "reference": "a" * 60 + "b"} for n in range(1000)])
    started = time.process_time()
    with pytest.raises(InputError, match=r"line 1: '\(\?:a\|aa\)\+\$' takes more than .* on the references"):
        read_questions(path, layout=QuestionLayout((), "(?:a|aa)+$"))
    assert time.process_time() - started < 60


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"columns": "question"}, "columns must be NAME=COLUMN, not 'question'"),
        ({"columns": "question=a,question=b"}, "columns name 'question' twice"),
        ({"reference_pattern": "("}, "'(' is not a regular expression"),
        ({"header_row": 0}, "header_row must be from 1"),
    ],
)
def test_invalid_settings_are_rejected(flags: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        load(QuestionLayout, flags)
    assert said in caught.value.message


def test_layouts_of_frames_datasets_and_the_default_set(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["a?"], "answer": ["#### 1"]})
    (item,) = read_questions(
        frame, layout=QuestionLayout(("question=prompt", "reference=answer"), "#### (.+)")
    ).questions
    assert (item.question, item.reference) == ("a?", "1")
    with pytest.raises(InputError, match="default questions cannot be mapped") as caught:
        read_questions("default", layout=QuestionLayout(("reference=answer",)))
    assert caught.value.hint.startswith("omit --columns reference=answer; to override a settings file: ")
    for source in (frame, _jsonl(tmp_path / "a.jsonl", SUMS)):
        with pytest.raises(InputError, match="--header-row"):
            read_questions(source, layout=QuestionLayout(header_row=3))
