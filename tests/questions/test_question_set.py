from dataclasses import replace

import pytest

from fledge.questions.question_set import Question, QuestionSet, default_questions


def test_default_set_is_large_and_split() -> None:
    questions = default_questions()
    answers = {item.reference for item in questions.questions}
    topics = {item.topic for item in questions.questions}
    assert len(answers) >= 300
    assert len(topics) >= 10
    texts: dict[str, set[str]] = {item.split: set() for item in questions.questions}
    for item in questions.questions:
        texts[item.split].add(item.question.casefold())
    assert set(texts) == {"train", "test"}
    assert not texts["train"] & texts["test"]
    assert len(texts["train"]) + len(texts["test"]) == len(questions.questions)


def test_sample_is_even_over_topics_and_seeded() -> None:
    held_out = default_questions().only("test")
    sample = held_out.sample(12, seed=3)
    assert len({item.topic for item in sample.questions}) == 12
    assert sample == held_out.sample(12, seed=3)
    assert sample != held_out.sample(12, seed=4)
    assert len(held_out.sample(10**6).questions) == len(held_out.questions)


def test_only_selects_a_split_and_a_topic() -> None:
    questions = default_questions().only("test", topic="mlops").questions
    assert {(item.split, item.topic) for item in questions} == {("test", "mlops")}
    assert default_questions().only() == default_questions()


@pytest.mark.parametrize(
    "change", [{"id": "2"}, {"reference": "c"}, {"topic": "t"}, {"split": "test"}, {"columns": {"level": "2"}}]
)
def test_digest_covers_all_columns(change: dict[str, object]) -> None:
    question = Question("1", "a?", "b", columns={"level": "1", "kind": "x"})
    assert _digest(question) == _digest(replace(question, columns={"kind": "x", "level": "1"}))
    assert _digest(question) != _digest(replace(question, **change))  # type: ignore[arg-type]


def test_digest_depends_on_order_and_not_on_source() -> None:
    first, second = Question("1", "a?"), Question("2", "b?")
    assert _digest(first, second) != _digest(second, first)
    assert QuestionSet("here", (first,)).digest == QuestionSet("there", (first,)).digest


def _digest(*questions: Question) -> str:
    return QuestionSet("mine.csv", questions).digest


def test_empty_columns_do_not_change_the_digest() -> None:
    bare = Question("1", "a?", columns={"level": "1"})
    assert _digest(replace(bare, reference="", columns={"level": "1", "kind": ""})) == _digest(bare)
    assert _digest(bare) == "ba4966cc0d22c6c42044104bb90bb7b39004acc0aacb37a5b5d0633b9db09beb"
    # Digest of a set registered when empty columns counted.
    before = "45f67ed487035b1b5ff15079b8330346ca5ea013b7effa994ab5bb52869ef873"
    assert QuestionSet("x", (replace(bare, columns={"level": "1", "kind": ""}),)).has_digest(before)
    assert not QuestionSet("x", (bare,)).has_digest(before)


def test_digest_of_the_default_set_is_stable() -> None:
    recorded = "ffa02d0bd67d9e26e2c4c1194447353401456f098aa69cecab50369ccb53b43f"
    assert default_questions().digest == recorded


def test_a_set_is_counted_and_iterated() -> None:
    questions = default_questions().sample(3)
    assert len(questions) == 3
    assert list(questions) == list(questions.questions)
    assert repr(questions) == "<QuestionSet 'default': 3 questions>"
