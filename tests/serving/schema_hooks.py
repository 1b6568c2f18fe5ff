"""Hook for schemathesis: generates Parquet files with the column `question`, which a schema cannot express."""

import schemathesis
from hypothesis import strategies as st

from tests.serving.parquet_files import write_parquet

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20)
TABLES = st.lists(WORDS, max_size=5).map(lambda texts: write_parquet({"question": texts, "more": texts}))

schemathesis.openapi.media_type("application/vnd.apache.parquet", TABLES)
