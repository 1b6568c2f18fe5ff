"""The plugin for `mlflow deployments -t fledge`, in `_mlflow_plugin.py`."""
