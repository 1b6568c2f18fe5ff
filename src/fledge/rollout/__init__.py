"""How an endpoint moves from one release to another: aliases that move, and canaries. `moves.py`, `routes.py` and
`canary.py` decide (pure), `_mlflow_aliases.py` sees where aliases point, `_mlflow_canary.py` leads a canary."""
