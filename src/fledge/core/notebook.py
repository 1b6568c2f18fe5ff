"""HTML of results for notebooks."""

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ROWS = 60


def as_html(title: str, table: "pd.DataFrame") -> str:
    """Return a title and a table as escaped HTML, truncated in the middle to 60 rows."""
    shown = table.to_html(index=False, max_rows=ROWS, border=0, na_rep="", justify="left")
    return f"<p>{html.escape(title)}</p>\n{shown}"
