"""Opening the prompts of a tracking store; MLflow is loaded by then only."""

from typing import TYPE_CHECKING

from fledge.core.settings import Workspace
from fledge.core.types import Say, silent
from fledge.prompts.prompt import PromptStore
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_prompts(*, workspace: Workspace | None = None, say: Say = silent) -> PromptStore:
    """The prompts of a workspace: in MLflow's prompt registry, or as artifacts where the server has none (`say` hears
    of it)."""
    return open_store(connect((workspace or Workspace()).tracking), say)


def open_store(client: "MlflowClient", say: Say = silent) -> PromptStore:
    """The same for a tracking store that is connected already."""
    from fledge.prompts import _mlflow_registry

    return _mlflow_registry.open_store(client, say)
