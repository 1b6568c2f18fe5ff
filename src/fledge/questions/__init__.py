"""Question sets: `question_set.py` (types), `sources.py` (`read_questions`), a file for each format, `layout.py`
(column mapping), `rows.py` (rows to questions or errors), `checks.py` (warnings), `versions.py` (MLflow)."""
