import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fledge.comparison.table import by_question, metrics, pick_metric, read_scores
from fledge.core.errors import InputError


def _table(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"question": ["q1", "q1", "q2", "q2"], "arm": ["a", "b", "a", "b"], **columns})


def test_metric_defaults_to_token_f1() -> None:
    table = _table(quality=[1.0, 2.0, 3.0, 4.0])
    assert pick_metric(table.assign(token_f1=0.5), None) == "token_f1"
    assert pick_metric(table, "quality") == "quality"
    with pytest.raises(InputError, match="no metric was given"):
        pick_metric(table, None)
    with pytest.raises(InputError, match="no metric 'speed'"):
        pick_metric(table, "speed")
    with pytest.raises(InputError, match="no metric 'arm'"):
        pick_metric(table, "arm")


def test_only_numbers_are_metrics() -> None:
    table = _table(quality=[1, 2, 3, 4], sample=[0, 0, 0, 0], right=[True, False, True, True], text=list("abcd"))
    assert metrics(table) == ["quality", "right"]
    assert by_question(table, "right").passes


def test_samples_are_averaged_and_arms_keep_their_order() -> None:
    table = pd.DataFrame({"question": [7, 7, 7, 8], "arm": ["z", "z", "a", "a"], "quality": [1.0, 3.0, 5.0, 6.0]})
    scores = by_question(table, "quality")
    assert scores.arms == ("z", "a")
    np.testing.assert_array_equal(scores.values, [[2.0, 5.0], [np.nan, 6.0]])
    assert not scores.passes


def test_error_names_the_row_of_a_text_score() -> None:
    with pytest.raises(InputError, match="column quality, row 3: 'good' is not a number"):
        by_question(_table(quality=["1", "2", "good", "4"]), "quality")
    assert by_question(_table(quality=["1", "2", "", None]), "quality").missing == (1, 1)


def test_a_question_with_two_topics_is_rejected() -> None:
    with pytest.raises(InputError, match="question 'q1' has two topics"):
        by_question(_table(quality=[1.0] * 4, topic=["x", "y", "x", "x"]), "quality")
    topics = by_question(_table(quality=[1.0] * 4, topic=["x", "x", None, ""]), "quality").topics
    assert topics is not None
    assert len(set(topics)) == 2  # a question without a topic is its own topic
    assert by_question(_table(quality=[1.0] * 4, topic=[None] * 4), "quality").topics is None


def test_scores_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("question,arm,quality\n1,a,0.5\n1,b,0.7\n")
    assert len(read_scores(str(path))) == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("question,quality\n1,0.5\n", "no column arm"),
        ("question,arm,quality\n1,a,0.5\n,b,0.7\n", "row 2: no question"),
        ("question,arm,quality\n1,,0.5\n", "row 1: no arm"),
        ("", "No columns to parse"),
        ('question,arm\n1,"a\n', "scores.csv: "),
        ("question,arm,quality\n1,a,0.5,9\n1,b,0.7,8\n", "more columns than the first line"),
    ],
)
def test_invalid_scores_files_are_rejected(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=problem):
        read_scores(str(path))


def test_an_arm_may_be_called_none_and_a_topic_na(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("question,arm,topic,score\n1,None,NA,1\n1,few,NA,0\n2,None,NA,NaN\n2,few,NA,1\n")
    scores = by_question(read_scores(str(path)), "score")
    assert scores.arms == ("None", "few")
    assert scores.topics is not None
    assert list(scores.topics) == [0, 0]
    assert scores.missing == (1, 0)


def test_read_scores_accepts_a_data_frame() -> None:
    table = _table(quality=[1.0, 2.0, 3.0, 4.0])
    assert read_scores(table.set_index("question", drop=False)).equals(table)
    with pytest.raises(InputError, match="the table: no column question, arm"):
        read_scores(pd.DataFrame({"quality": [1.0]}))


def test_missing_scores_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_scores(str(tmp_path / "none.csv"))


def test_binary_scores_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_scores(str(path))
