"""The tracking store that a program set for itself in MLflow, which a call of ours leaves as it was."""

import contextlib
import os
import sys
from collections.abc import Iterator

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # which MLflow sets along


@contextlib.contextmanager
def keep_callers_store() -> Iterator[None]:
    """Whatever store is used inside, MLflow has the same as before afterwards."""
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
