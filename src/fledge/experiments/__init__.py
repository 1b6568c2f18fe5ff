"""Running and recording experiments: `config.py` (settings), `run.py` (`run_experiment`), `arms.py` (variants to
compare), `cell_runner.py` (generating answers), `journal.py` (answers on disk), `comparison.py` and `evaluation.py`
(verdicts)."""
