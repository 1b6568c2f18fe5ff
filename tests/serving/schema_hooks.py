"""For schemathesis: how to make a Parquet file with the column `question`, which no schema can say."""

import schemathesis
from hypothesis import strategies as st

from tests.serving.parquet_files import written

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20)
TABLES = st.lists(WORDS, max_size=5).map(lambda texts: written({"question": texts, "more": texts}))

schemathesis.openapi.media_type("application/vnd.apache.parquet", TABLES)
