"""Connecting to a tracking store from code that works without MLflow until then."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect(uri: str) -> "MlflowClient":
    """As `_mlflow_connection.connect`, which takes a second or two to load."""
    from fledge.tracking import _mlflow_connection

    return _mlflow_connection.connect(uri)
