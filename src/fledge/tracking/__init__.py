"""The connection to MLflow that several packages share: connecting and runs (`_mlflow_connection.py`), traces in bulk
(`_mlflow_traces.py`), and the store that a program has set for itself (`callers_store.py`)."""
