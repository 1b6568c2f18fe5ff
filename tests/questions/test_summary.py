from fledge.questions.question_set import Question, QuestionSet
from fledge.questions.summary import Length, Topic, summarize


def test_summary_counts_and_lengths() -> None:
    questions = (
        Question("1", "Who is it?", "x y", "t", "train", {"level": "1"}),
        Question("2", "Why?", None, "t", "test"),
        Question("3", "What is this thing here?", "z", "a", "test", {"kind": "b"}),
        Question("4", "So it is?", None),
    )
    found = summarize(QuestionSet("mine.csv", questions))
    assert (found.questions, found.references, found.columns) == (4, 2, ("level", "kind"))
    assert found.splits == {"": 1, "test": 2, "train": 1}
    assert found.topics == (
        Topic("t", 2, {"test": 1, "train": 1}),
        Topic("", 1, {"": 1}),
        Topic("a", 1, {"test": 1}),
    )
    assert found.question_words == Length(3, 5)
    assert found.question_characters == Length(9.5, 24)
    assert found.reference_words == Length(1.5, 2)


def test_summary_without_references() -> None:
    found = summarize(QuestionSet("mine.csv", (Question("1", "Why?"),)))
    assert (found.references, found.reference_words, found.reference_characters) == (0, None, None)
