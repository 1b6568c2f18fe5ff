"""Releases in MLflow's registry. `release.py` has `register`, `verify`, `promote`, `rollback` and `history`;
`wrapper.py` is the MLflow model; `moves.py` says which moves of aliases count (pure), `_mlflow_evidence.py` what speaks
for one."""
