"""Restore the tracking store that the calling program set in MLflow."""

import contextlib
import os
import sys
from collections.abc import Iterator

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # MLflow sets both


@contextlib.contextmanager
def keep_callers_store() -> Iterator[None]:
    """Restore MLflow's tracking and registry store after the block."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    try:
        yield
    finally:
        if (mlflow := sys.modules.get("mlflow")) and before != {name: os.environ.get(name) for name in VARIABLES}:
            mlflow.set_tracking_uri(before["MLFLOW_TRACKING_URI"])
            mlflow.set_registry_uri(before["MLFLOW_REGISTRY_URI"])
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ.update({name: value} if value is not None else {})
