"""Releases in MLflow's registry. `release.py` has `register`, `verify`, `promote`, `rollback` and `history`,
`wrapper.py` the MLflow model, `moves.py` the rules for alias moves (pure), `_mlflow_evidence.py` the evidence for a
promotion."""
