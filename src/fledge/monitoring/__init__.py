"""What becomes of the requests that were served: `recorder.py` ships the outbox to MLflow (`_mlflow_requests.py`) and
to collectors (`_otlp.py`); `health.py` sums up. `background_tasks.py` is what the recorder does beside that."""
