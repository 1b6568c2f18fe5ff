"""Asking all questions of all arms, and recording it: `config.py` (settings), `run.py` (`run_experiment`), `arms.py`
(what is compared), `cell_runner.py` (asking), `journal.py` (each answer on disk), `comparison.py` and `evaluation.py`
(verdicts)."""
