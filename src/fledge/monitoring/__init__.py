"""Recording of served requests. `recorder.py` ships the outbox to MLflow (`_mlflow_requests.py`) and to collectors
(`_otlp.py`), `health.py` summarizes it, and `background_tasks.py` has the recorder's other tasks."""
