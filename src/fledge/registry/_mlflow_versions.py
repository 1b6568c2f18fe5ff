"""Adding versions to a registered model, safe for concurrent processes."""

from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from fledge.core.errors import FledgeError

ATTEMPTS = 10
PATIENCE_S = 30.0
FINAL = ("PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_PARAMETER_VALUE")


def add_version(
    client: MlflowClient, name: str, source: str, *, about: Mapping[str, Any] | None = None, **options: Any
) -> ModelVersion:
    """Add a version to `name` and return it; create a missing `name` with the description and tags in `about`.

    Raises `FledgeError` if the store does not accept it.
    """

    def create() -> ModelVersion:
        try:
            return client.create_model_version(name, source, **options)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                _create(client, name, about or {})
            raise

    # Concurrent writers collide in some stores.
    again = Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(PATIENCE_S),
        wait=wait_random_exponential(0.05),
        reraise=True,
    )
    try:
        return again(create)
    except MlflowException as error:
        raise FledgeError(f"MLflow did not add a version to {name}: {str(error).splitlines()[0]}") from None


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, MlflowException) and error.error_code not in FINAL


def _create(client: MlflowClient, name: str, about: Mapping[str, Any]) -> None:
    try:
        client.create_registered_model(name, **about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
