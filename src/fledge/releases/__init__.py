"""Releases: a folder with a manifest (`manifest.py`), the local cache (`release_cache.py`), and fetching from MLflow
(`_mlflow_releases.py`)."""
