"""Shared MLflow access: connection and runs (`_mlflow_connection.py`), bulk traces (`_mlflow_traces.py`), and restoring
the caller's tracking store (`callers_store.py`)."""
