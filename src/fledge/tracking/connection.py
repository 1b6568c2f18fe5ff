"""Connect to a tracking store; loads MLflow on the first call."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect(uri: str) -> "MlflowClient":
    """Call `_mlflow_connection.connect`, which takes one or two seconds to load."""
    from fledge.tracking import _mlflow_connection

    return _mlflow_connection.connect(uri)
