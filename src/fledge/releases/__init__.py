"""What a release is: a folder with a manifest (`manifest.py`), the copies kept on this machine (`release_cache.py`),
and fetching it from MLflow (`_mlflow_releases.py`)."""
