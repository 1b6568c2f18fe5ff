"""How results are shown in a notebook."""

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ROWS = 60


def as_html(title: str, table: "pd.DataFrame") -> str:
    """Return a title and a table as HTML, escaped; of more than 60 rows the first and the last."""
    shown = table.to_html(index=False, max_rows=ROWS, border=0, na_rep="", justify="left")
    return f"<p>{html.escape(title)}</p>\n{shown}"
