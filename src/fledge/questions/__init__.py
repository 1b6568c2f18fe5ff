"""Question sets: `question_set.py` (what one is), `sources.py` (`read_questions`), a file for each format, `layout.py`
(which columns), `rows.py` (questions or errors of rows), `checks.py` (warnings), `versions.py` (kept in MLflow)."""
