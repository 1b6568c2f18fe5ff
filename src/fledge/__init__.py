"""fledge: a Hugging Face language model from its first experiment to a watched endpoint, recorded in MLflow.

The public verbs below are loaded on first use; importing the package does nothing else.
"""

import importlib
from types import FunctionType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "ArmConfig": "fledge.experiments.config",
    "AsyncClient": "fledge.client.client",
    "Client": "fledge.client.client",
    "CompareOptions": "fledge.comparison.options",
    "Comparison": "fledge.comparison.findings",
    "Draft": "fledge.prompts.prompt",
    "Evaluation": "fledge.experiments.evaluation",
    "ExperimentConfig": "fledge.experiments.config",
    "ExperimentResult": "fledge.experiments.run",
    "FledgeError": "fledge.core.errors",
    "GenerationParams": "fledge.engines.engine",
    "JudgeConfig": "fledge.scoring.judge",
    "QuestionLayout": "fledge.questions.layout",
    "QuestionSet": "fledge.questions.question_set",
    "QuestionsConfig": "fledge.questions.versions",
    "ServeConfig": "fledge.supervision.config",
    "Workspace": "fledge.core.settings",
    "answers": "fledge.experiments.answers",
    "calibrate_judge": "fledge.scoring.calibration",
    "check_endpoint": "fledge.client.checks",
    "compare": "fledge.experiments.comparison",
    "evaluate": "fledge.experiments.evaluation",
    "history": "fledge.registry.release",
    "mlflow_scorers": "fledge.scoring._mlflow_scorers",
    "open_prompts": "fledge.prompts.store",
    "promote": "fledge.registry.release",
    "read_questions": "fledge.questions.sources",
    "register": "fledge.registry.release",
    "register_questions": "fledge.questions.versions",
    "resume_experiment": "fledge.experiments.run",
    "rollback": "fledge.registry.release",
    "run_demo": "fledge.demo.end_to_end",
    "run_experiment": "fledge.experiments.run",
    "runs": "fledge.experiments.runs",
    "scorer": "fledge.scoring.catalogue",
    "serve": "fledge.supervision.endpoints",
    "status": "fledge.supervision.endpoints",
    "stop": "fledge.supervision.endpoints",
    "verify": "fledge.registry.release",
}
__all__ = tuple(_PUBLIC)

if TYPE_CHECKING:
    from fledge.client.checks import check_endpoint as check_endpoint
    from fledge.client.client import AsyncClient as AsyncClient
    from fledge.client.client import Client as Client
    from fledge.comparison.findings import Comparison as Comparison
    from fledge.comparison.options import CompareOptions as CompareOptions
    from fledge.core.errors import FledgeError as FledgeError
    from fledge.core.settings import Workspace as Workspace
    from fledge.demo.end_to_end import run_demo as run_demo
    from fledge.engines.engine import GenerationParams as GenerationParams
    from fledge.experiments.answers import answers as answers
    from fledge.experiments.comparison import compare as compare
    from fledge.experiments.config import ArmConfig as ArmConfig
    from fledge.experiments.config import ExperimentConfig as ExperimentConfig
    from fledge.experiments.evaluation import Evaluation as Evaluation
    from fledge.experiments.evaluation import evaluate as evaluate
    from fledge.experiments.run import ExperimentResult as ExperimentResult
    from fledge.experiments.run import resume_experiment as resume_experiment
    from fledge.experiments.run import run_experiment as run_experiment
    from fledge.experiments.runs import runs as runs
    from fledge.prompts.prompt import Draft as Draft
    from fledge.prompts.store import open_prompts as open_prompts
    from fledge.questions.layout import QuestionLayout as QuestionLayout
    from fledge.questions.question_set import QuestionSet as QuestionSet
    from fledge.questions.sources import read_questions as read_questions
    from fledge.questions.versions import QuestionsConfig as QuestionsConfig
    from fledge.questions.versions import register_questions as register_questions
    from fledge.registry.release import history as history
    from fledge.registry.release import promote as promote
    from fledge.registry.release import register as register
    from fledge.registry.release import rollback as rollback
    from fledge.registry.release import verify as verify
    from fledge.scoring._mlflow_scorers import mlflow_scorers as mlflow_scorers
    from fledge.scoring.calibration import calibrate_judge as calibrate_judge
    from fledge.scoring.catalogue import scorer as scorer
    from fledge.scoring.judge import JudgeConfig as JudgeConfig
    from fledge.supervision.config import ServeConfig as ServeConfig
    from fledge.supervision.endpoints import serve as serve
    from fledge.supervision.endpoints import status as status
    from fledge.supervision.endpoints import stop as stop


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fledge' has no attribute {name!r}")
    found = getattr(importlib.import_module(_PUBLIC[name]), name)
    if not isinstance(found, FunctionType):
        return found
    from fledge.tracking.callers_store import keep_callers_store

    return keep_callers_store()(found)


def __dir__() -> list[str]:
    return list(_PUBLIC)
