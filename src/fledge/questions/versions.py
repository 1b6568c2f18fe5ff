"""Question sets registered in MLflow: each version is an evaluation dataset called `NAME/1`, `NAME/2`, ..."""

import re
from dataclasses import dataclass

from fledge.core.errors import InputError
from fledge.core.settings import Workspace, option
from fledge.core.types import Progress, no_progress
from fledge.questions.question_set import QuestionSet
from fledge.questions.set_version import QuestionSetVersion
from fledge.tracking.connection import connect


@dataclass(frozen=True)
class QuestionsConfig(Workspace):
    """Where to register question sets: MLflow shows a dataset with its experiment."""

    experiment_name: str = option("fledge", "MLflow experiment", env="EXPERIMENT_NAME")


def register_questions(
    questions: QuestionSet,
    name: str,
    *,
    config: QuestionsConfig | None = None,
    progress: Progress = no_progress,
) -> QuestionSetVersion:
    """Register a question set in MLflow as the newest version of `name`; unchanged questions make no new version.

    `config` defaults to the settings, `progress` counts records. Raises `InputError` for an invalid name and for
    duplicate questions.
    """
    check_name(name)
    from fledge.questions._mlflow_datasets import register
    from fledge.tracking._mlflow_connection import experiment_id

    config = config or QuestionsConfig()
    client = connect(config.tracking)
    return register(client, experiment_id(client, config.experiment_name), questions, name, progress)


def check_name(name: str) -> None:
    """Raise `InputError` for an invalid name of a question set."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", name) or re.fullmatch("d-[0-9a-f]{32}", name):
        raise InputError(f"{name!r} cannot be the name of a question set", hint="letters, digits, '_', '-' and '.'")
