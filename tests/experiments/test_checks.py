"""Errors and notes before an experiment starts."""

from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.experiments.checks import check_references, list_notes
from fledge.experiments.config import ExperimentConfig
from fledge.questions.layout import QuestionLayout
from fledge.questions.question_set import Question, QuestionSet
from fledge.questions.sources import read_questions


def make_questions(*references: str, **columns: str) -> QuestionSet:
    items = tuple(
        Question(str(number), f"Why {number}?", text or None, columns=columns) for number, text in enumerate(references)
    )
    return QuestionSet("qa.csv", items)


def test_metric_that_fits_no_reference_is_refused() -> None:
    config = ExperimentConfig(scorers=("choice", "number"), metric="choice")
    check_references(config, make_questions("7", "B"))
    with pytest.raises(InputError, match=r"--metric choice fits no reference of qa\.csv"):
        check_references(config, make_questions("7", "8"))
    with pytest.raises(InputError, match=r"--metric number needs references, and qa\.csv has none"):
        check_references(ExperimentConfig(scorers=("number",), metric="number"), make_questions("", ""))


def test_invalid_pattern_of_a_question_is_named() -> None:
    with pytest.raises(InputError, match=r"question '0' of qa.csv: invalid regular expression in answer_pattern"):
        check_references(ExperimentConfig(), make_questions("7", answer_pattern="(\\d"))


def test_possible_reference_column_is_suggested(tmp_path: Path) -> None:
    file = tmp_path / "qa.csv"
    file.write_text("Q,Answer\nTwo plus two?,4\nThree plus four?,7\n")
    config = ExperimentConfig(questions=str(file), layout=QuestionLayout(columns=("question=Q",)))
    questions = read_questions(file, layout=config.layout, workspace=config)
    assert list(list_notes(config, questions, 2)) == [
        f"note: {file} has no references; to use a column for them: --columns question=Q,reference=Answer"
    ]
    assert list(list_notes(config, make_questions("yes", "no"), 2)) == []


def test_numeric_references_suggest_the_number_scorer() -> None:
    (found,) = list_notes(ExperimentConfig(), make_questions("7", "8"), 2)
    assert found.startswith("note: all references are numbers; to compare them as such: --scorers number")
    assert list(list_notes(ExperimentConfig(), make_questions("7", "8"), 1)) == []
