import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fledge.core.errors import InputError
from fledge.questions.sources import read_questions


def test_missing_values_are_empty_and_the_index_is_ignored() -> None:
    frame = pd.DataFrame(
        {
            "id": [7, None, np.nan],
            "question": ["a?", "b?", "c?"],
            "reference": ["x", None, pd.NA],
            "level": [1.5, np.nan, 2],
            "day": [dt.date(2024, 1, 2), pd.NaT, None],
            "words": [["a", "b"], np.array([1, 2]), None],
        },
        index=["x", "x", "y"],
    )
    first, second, third = read_questions(frame).questions
    assert (first.id, first.reference) == ("7", "x")
    assert first.columns == {"level": "1.5", "day": "2024-01-02", "words": '["a", "b"]'}
    assert (second.reference, second.columns) == (None, {"level": "", "day": "", "words": "[1, 2]"})
    assert (third.reference, third.columns["level"]) == (None, "2.0")
    assert len({first.id, second.id, third.id}) == 3


def test_frame_and_file_give_the_same_set(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [1, 2], "question": ["a, b?", "c?"], "topic": ["t", "u"], "ok": [True, False]})
    (tmp_path / "a.jsonl").write_text(frame.to_json(orient="records", lines=True))
    assert read_questions(frame).questions == read_questions(tmp_path / "a.jsonl").questions


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (pd.DataFrame({"question": ["a?", None]}), "data frame, row 2: the question is empty"),
        (pd.DataFrame({"question": ["a?", np.nan]}), "data frame, row 2: the question is empty"),
        (pd.DataFrame({"prompt": ["a?"]}), "no column 'question', only 'prompt'"),
        (pd.DataFrame([["a?", "b?"]], columns=["question", "question"]), "two columns are called 'question'"),
        (pd.DataFrame({"question": []}), "no questions"),
        (["a?"], "cannot read questions from 'list'"),
    ],
)
def test_invalid_frames_are_rejected(frame: pd.DataFrame, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        read_questions(frame)
    assert caught.value.hint
