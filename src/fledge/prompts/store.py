"""Open the prompts of a tracking store; loads MLflow on the first call."""

from typing import TYPE_CHECKING

from fledge.core.settings import Workspace
from fledge.core.types import Say, silent
from fledge.prompts.prompt import PromptStore
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_prompts(*, workspace: Workspace | None = None, say: Say = silent) -> PromptStore:
    """Open the prompts of a workspace: MLflow's prompt registry, or artifacts if the server has none (reported to
    `say`)."""
    return open_store(connect((workspace or Workspace()).tracking), say)


def open_store(client: "MlflowClient", say: Say = silent) -> PromptStore:
    """Open the prompts of a connected tracking store."""
    from fledge.prompts import _mlflow_registry

    return _mlflow_registry.open_store(client, say)
