"""Read CSV files."""

import warnings
from typing import Any

import pandas as pd

from fledge.core.errors import InputError


def read_csv(path: str, flag: str, hint: str, **options: Any) -> pd.DataFrame:
    """Return the CSV file given with `flag`; `options` are those of pandas.

    Raises `InputError` for an unreadable file, and for rows with more columns than the first line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table: pd.DataFrame = pd.read_csv(path, index_col=False, **options)
            return table
    except pd.errors.ParserWarning:
        problem, hint = "rows have more columns than the first line", 'put texts with commas in double quotes: "a, b"'
    except FileNotFoundError:
        problem, hint = "there is no such file", f"check the path given to {flag}"
    except (ValueError, OSError) as error:
        problem = str(error)
    raise InputError(f"{path}: {problem}", hint=hint) from None
