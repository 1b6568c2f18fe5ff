"""Hooks for schemathesis, for what a schema cannot express.

Parquet files with the column `question` are generated here. Requests for a structured output or a tool are left out:
that a schema or pattern is one that can be enforced is no JSON schema, and the scripted engine enforces none.
"""

from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.serving.parquet_files import write_parquet

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20)
TABLES = st.lists(WORDS, max_size=5).map(lambda texts: write_parquet({"question": texts, "more": texts}))
STRUCTURES = ("response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")

schemathesis.openapi.media_type("application/vnd.apache.parquet", TABLES)


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Return whether a request is kept."""
    body = case.body
    if not isinstance(body, dict):
        return True
    inside = body["params"] if isinstance(body.get("params"), dict) else {}
    return all(part.get(name) is None for part in (body, inside) for name in (*STRUCTURES, "tools", "tool_choice"))
