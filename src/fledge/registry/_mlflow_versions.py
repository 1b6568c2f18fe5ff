"""Adding a version to a registered model, as several may do at once."""

import random
import time
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fledge.core.errors import FledgeError

ATTEMPTS = 10
PATIENCE_S = 30.0
FINAL = ("PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_PARAMETER_VALUE")


def add_version(
    client: MlflowClient, name: str, source: str, *, about: Mapping[str, Any] | None = None, **options: Any
) -> ModelVersion:
    """A new version of `name`; that is created where it is missing, with the description and tags in `about`.

    Raises `FledgeError` if the store takes none.
    """
    began = time.monotonic()
    for attempt in range(ATTEMPTS):
        try:
            return client.create_model_version(name, source, **options)
        except MlflowException as error:
            last = attempt == ATTEMPTS - 1 or time.monotonic() - began > PATIENCE_S
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and not last:
                _create(client, name, about or {})
            elif last or error.error_code in FINAL:
                raise FledgeError(f"MLflow took no version of {name}: {str(error).splitlines()[0]}") from None
            else:  # two that make a version at once collide in some stores
                time.sleep(random.uniform(0, 0.05 * 2**attempt))
    raise AssertionError


def _create(client: MlflowClient, name: str, about: Mapping[str, Any]) -> None:
    try:
        client.create_registered_model(name, **about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
