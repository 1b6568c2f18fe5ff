"""Question sets from pandas."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from fledge.core.errors import InputError
from fledge.questions.layout import PLAIN, QuestionLayout
from fledge.questions.rows import Problem, Reading, Row, collect

SOURCE = "data frame"


def read_frame(frame: Any, layout: QuestionLayout = PLAIN) -> Reading:
    """Read the rows of a DataFrame, counted from 1; its index is ignored. Raises `InputError` for any other type."""
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"cannot read questions from {type(frame).__name__!r}",
            hint="a file, dataset:NAME, default, or a pandas DataFrame",
        )
    layout.refuse_header_row(SOURCE)
    return collect(SOURCE, "row", _read_rows(frame), layout=layout)


def _read_rows(frame: pd.DataFrame) -> Iterator[Row | Problem]:
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield Problem("column", None, f"two columns are called {twice[0]!r}", "give each column a unique name")
        return
    # pandas turns integers with missing values into floats; convert them back, and all missing values to NA.
    columns = [frame.iloc[:, place].convert_dtypes().astype(object) for place in range(len(names))]
    values = [[_to_python(value) for value in column.where(column.notna(), None)] for column in columns]
    for line, row in enumerate(zip(*values, strict=True), 1):
        yield Row(line, dict(zip(names, row, strict=True)))


def _to_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
