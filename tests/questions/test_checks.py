import time
from collections.abc import Mapping, Sequence

import pytest

from fledge.core.errors import InputError
from fledge.questions.checks import clean, warnings
from fledge.questions.question_set import Question, default_questions
from fledge.questions.rows import Reading, Row, collect


def _read(*rows: Mapping[str, object]) -> Reading:
    return collect("mine.csv", "line", (Row(line, row) for line, row in enumerate(rows, 2)))


def _read_questions(*questions: str) -> Reading:
    return _read(*({"question": question} for question in questions))


def _kinds(reading: Reading) -> list[tuple[str, int | None]]:
    return [(problem.kind, problem.line) for problem in warnings(reading)]


def test_default_set_gives_no_warning() -> None:
    questions = default_questions().questions
    assert warnings(Reading("default", "question", questions, tuple(range(len(questions))), ())) == []


@pytest.mark.parametrize(
    ("questions", "kinds"),
    [
        (["What is AI?", "what is  AI", "Why?"], [("near-duplicate", 3)]),
        (["What is “it”?", 'What is "it"?'], [("near-duplicate", 3)]),
        (["¿Qué es?", "qué es"], [("near-duplicate", 3)]),
        (["Cafe\u0301?", "Caf\u00e9?"], [("near-duplicate", 3)]),
        (["What is overfitting?", "What is overfiting?"], [("near-duplicate", 3)]),
        (["Name a data set.", "Name a dataset."], [("near-duplicate", 3)]),
        (["What is C?", "What is C++?", "What is C#?"], []),
        (["What is 2+2?", "What is 2*2?", "What is 22?"], []),
        (["What is chapter 12?", "What is chapter 13?"], []),
        (["What is a cat?", "What is a car?"], []),
        (["Explain top-k sampling", "Explain top-p sampling"], []),
        (["法国的首都是什么\uff1f", "德国的首都是什么\uff1f"], []),
        (["法国的首都是什么\uff1f", "法国的首都是什么"], [("near-duplicate", 3)]),
        (["?!", "...", "😀", "😃"], []),
    ],
)
def test_near_duplicates(questions: Sequence[str], kinds: list[tuple[str, int]]) -> None:
    assert _kinds(_read_questions(*questions)) == kinds


def test_repeated_questions() -> None:
    reading = _read(
        {"id": "1", "question": "a?", "reference": "x", "level": "1"},
        {"id": "2", "question": "a?", "reference": "x", "level": "1"},
        {"id": "3", "question": "a?", "reference": "y", "level": "1"},
    )
    assert _kinds(reading) == [("duplicate", 3), ("repeated", 4)]
    assert [item.id for item in clean(reading).questions] == ["1", "3"]


def test_a_question_in_two_splits_is_a_leak() -> None:
    reading = _read(
        {"id": "1", "question": "Why is it so?", "split": "train"},
        {"id": "2", "question": "why is it so", "split": "test"},
        {"id": "3", "question": "Why is it so?", "split": "train"},
        {"id": "4", "question": "Because of what?", "split": "train"},
        {"id": "5", "question": "Becauze of what?", "split": "test"},
    )
    assert _kinds(reading) == [("leak", 3), ("leak", 4), ("leak", 6)]
    assert "line 2, which is in the split 'train'" in warnings(reading)[0].message
    assert len(clean(reading).questions) == 4  # drops the third row, a copy of the first


def test_row_warnings() -> None:
    reading = _read(
        {"question": "A" * 5000, "reference": "x"},
        {"question": "Echo?", "reference": " echo? "},
        {"question": "Lost \ufffd?", "reference": "x"},
    )
    assert _kinds(reading) == [("long", 2), ("reference", 3), ("characters", 4)]
    assert "5,000 characters" in warnings(reading)[0].message


def test_missing_and_renamed_columns() -> None:
    some = _read(
        {"question": "a?", "reference": "x", "topic": "t", "split": "test"},
        {"question": "b?", "reference": "", "topic": "u"},
    )
    messages = [warning.message for warning in warnings(some)]
    assert messages == [
        "1 of 2 questions have no reference, the first on line 3",
        "1 of 2 questions have no split, the first on line 3",
    ]
    other = _read({"question": "a?", "answer": "x", "Category": "t", "qid": "1", "subset": "test"})
    assert [warning.message.rpartition(" ")[2] for warning in warnings(other)] == [
        "'answer'",
        "'Category'",
        "'subset'",
        "'qid'",
    ]
    assert warnings(_read({"id": "1", "question": "a?", "reference": "x", "answer": "y", "qid": "2"})) == []


def test_topic_warnings() -> None:
    one = _read({"question": "a?", "topic": "t"}, {"question": "b?", "topic": "t"})
    assert [warning.message for warning in warnings(one)] == ["'t' is the only topic"]
    sizes = {"large": 31, "b": 3, "c": 2}
    uneven = _read(*({"question": f"{name} {n}?", "topic": name} for name in sizes for n in range(sizes[name])))
    assert [warning.message for warning in warnings(uneven)] == ["the topic 'large' has 31 questions, the median one 3"]
    spelled = _read({"question": "a?", "topic": "My  topic"}, {"question": "b?", "topic": "my topic"})
    assert [warning.kind for warning in warnings(spelled)] == ["spelling"]


def test_clean_removes_duplicate_rows() -> None:
    twice = _read({"id": "1", "question": "a?"}, {"id": "1", "question": "a?"}, {"id": "2", "question": "b?"})
    assert [error.kind for error in twice.errors] == ["duplicate"]
    assert [item.id for item in clean(twice).questions] == ["1", "2"]
    worse = _read({"id": "1", "question": "a?"}, {"id": "1", "question": "b?"})
    with pytest.raises(InputError, match=r"mine\.csv, line 3: id '1' is also on line 2"):
        clean(worse)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["different", "the same words", "one letter apart"])
def test_a_hundred_thousand_questions_take_seconds(kind: str) -> None:
    def text(n: int) -> str:
        if kind == "the same words":
            return "Why" + "?" * (n % 100)
        return (
            f"What is the meaning of {n} in {n * 7919 % 100_003}?" if kind == "different" else f"{'ab' * (n % 1000)}?"
        )

    questions = tuple(Question(str(n), text(n), str(n), "t", "ab"[n % 2]) for n in range(100_000))
    reading = Reading("many", "line", questions, tuple(range(100_000)), ())
    started = time.process_time()
    warnings(reading)
    clean(reading)
    assert time.process_time() - started < 20  # 3 s on a quiet machine of 2026
