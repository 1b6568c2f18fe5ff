"""MLflow's deployments plugin: `mlflow deployments create -t fledge`, in `_mlflow_plugin.py`."""
