"""Input forms of a release, from users, MLflow's server and pandas."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fledge.core.errors import InputError
from fledge.core.types import Message
from fledge.registry.rows import read_rows

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
CONVERSATION = (Message("system", "Be brief."), Message("user", "Who?"))
A, B = {"question": "a"}, {"question": "b"}


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ("a", [A]),
        (["a", "b"], [A, B]),
        (np.array(["a", "b"]), [A, B]),
        (pd.Series(["a", "b"]), [A, B]),
        (A, [A]),
        ([A, B], [A, B]),
        ({"question": ["a", "b"]}, [A, B]),
        ({"question": np.array(["a", "b"])}, [A, B]),
        (pd.DataFrame({"question": ["a", "b"], "id": [1, 2]}), [A, B]),
        (pd.DataFrame(["a", "b"]), [A, B]),
        (pd.DataFrame({"question": [np.array(["a", "b"])]}), [A, B]),
        (pd.DataFrame({"question": []}), []),
        ([], []),
        (TURNS, [CONVERSATION]),
        ([TURNS, TURNS], [CONVERSATION] * 2),
        ({"messages": TURNS}, [CONVERSATION]),
        ([{"messages": TURNS}, {"messages": TURNS}], [CONVERSATION] * 2),
        (pd.DataFrame({"messages": [TURNS, TURNS]}), [CONVERSATION] * 2),
        (pd.DataFrame({"messages": TURNS}), [CONVERSATION]),
        (pd.DataFrame({"question": [None], "messages": [TURNS]}), [CONVERSATION]),
        ({"messages": '[{"role": "user", "content": "Who?"}]'}, [CONVERSATION[1:]]),
    ],
)
def test_all_input_forms_give_the_same_rows(given: Any, rows: list[Any]) -> None:
    assert read_rows(given, ("question",)) == rows


def test_single_text_needs_a_prompt_of_one_variable() -> None:
    row = {"question": "a", "tone": "kind"}
    assert read_rows(row, ("question", "tone")) == [row]
    assert read_rows({"question": ["a", "b"], "tone": "kind"}, ("question", "tone")) == [row, {**row, "question": "b"}]
    with pytest.raises(InputError, match="row 1: a single value is ambiguous"):
        read_rows([row, "a"], ("question", "tone"))


@pytest.mark.parametrize(("value", "text"), [(5, "5"), (True, "true"), (1.5, "1.5"), (np.int64(5), "5")])
def test_numbers_become_their_text(value: Any, text: str) -> None:
    for given in ([value], [[value]], {"question": value}, {"question": [value]}, pd.DataFrame({"question": [value]})):
        assert read_rows(given, ("question",)) == [{"question": text}]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["a", ""], "row 1: column 'question' must be a text that is not empty"),
        ([A, {"question": b"3"}], "row 1: column 'question' must be a text or a number, not bytes"),
        (pd.DataFrame({"question": ["a", None]}), "row 1: column 'question' must be a text"),
        (pd.DataFrame({"text": ["a"]}), "no column is named 'question'"),
        ([A, b"7"], "row 1: bytes is not a row"),
        (None, "row 0: NoneType is not a row"),
        ({"messages": []}, "row 0: messages is empty"),
        ({"messages": "hello"}, "row 0: messages is not a conversation"),
        ([TURNS, [{"role": "robot", "content": "x"}]], "row 1: messages is not a conversation"),
        ({"messages": 7}, "row 0: messages is not a conversation"),
        ([A, {"messages": TURNS}], "row 1: messages and question cannot be mixed"),
    ],
)
def test_invalid_rows_are_rejected(given: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_rows(given, ("question",))


def test_column_lists_must_have_the_same_length() -> None:
    with pytest.raises(InputError, match="differ in length"):
        read_rows({"question": ["a", "b"], "tone": ["kind"]}, ("question", "tone"))
