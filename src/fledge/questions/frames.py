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
    """The rows of a DataFrame, counted from 1; its index says nothing. Raises `InputError` for anything else."""
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"no questions can be read from {type(frame).__name__!r}",
            hint="a file, dataset:NAME, default, or a pandas DataFrame",
        )
    layout.refuse_header_row(SOURCE)
    return collect(SOURCE, "row", _rows(frame), layout=layout)


def _rows(frame: pd.DataFrame) -> Iterator[Row | Problem]:
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield Problem("column", None, f"two columns are called {twice[0]!r}", "give each column a name of its own")
        return
    # A missing value makes whole numbers floating ones; the conversion turns them back, and all kinds of missing to NA.
    columns = [frame.iloc[:, place].convert_dtypes().astype(object) for place in range(len(names))]
    values = [[_plain(value) for value in column.where(column.notna(), None)] for column in columns]
    for line, row in enumerate(zip(*values, strict=True), 1):
        yield Row(line, dict(zip(names, row, strict=True)))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
