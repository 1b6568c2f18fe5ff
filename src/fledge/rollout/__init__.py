"""Alias moves and canaries of an endpoint. `moves.py`, `routes.py` and `canary.py` decide (pure), `_mlflow_aliases.py`
watches aliases, `_mlflow_canary.py` runs a canary."""
