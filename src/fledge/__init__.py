"""fledge: a Hugging Face language model from its first experiment to a monitored endpoint, recorded in MLflow.

The public verbs below are loaded on first use; importing the package does nothing else.
"""

import importlib
from types import FunctionType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "fledge.chat.loaded_model": (
        "LoadedModel",
        "load_model",
    ),
    "fledge.client.checks": (
        "Check",
        "check_endpoint",
        "give_feedback",
    ),
    "fledge.client.answers": (
        "EndpointAnswer",
        "Predictions",
    ),
    "fledge.client.client": (
        "AsyncClient",
        "Client",
    ),
    "fledge.comparison.findings": (
        "ArmSummary",
        "ArmWarning",
        "Comparison",
        "Pair",
    ),
    "fledge.comparison.gates": ("GateResult",),
    "fledge.comparison.guards": ("GuardResult",),
    "fledge.comparison.options": ("CompareOptions",),
    "fledge.comparison.power": (
        "PowerPlan",
        "plan",
    ),
    "fledge.comparison.statistics": ("Omnibus",),
    "fledge.core.endpoint_state": (
        "CanaryProgress",
        "RecorderFigures",
        "ReleaseState",
    ),
    "fledge.core.errors": (
        "ConflictError",
        "CrashLoopError",
        "DamagedError",
        "FledgeError",
        "InputError",
        "MissingExtraError",
        "RefusedError",
    ),
    "fledge.core.generation": ("GenerationParams",),
    "fledge.core.limits": ("Limits",),
    "fledge.core.settings": ("Workspace",),
    "fledge.core.types": (
        "EngineInfo",
        "Message",
    ),
    "fledge.demo.end_to_end": (
        "DemoListener",
        "DemoResult",
        "DemoStage",
        "run_demo",
    ),
    "fledge.engines.engine": (
        "Engine",
        "EngineGoneError",
    ),
    "fledge.engines.stream": ("Usage",),
    "fledge.experiments.answers": (
        "AnswerList",
        "AnswerRow",
        "answers",
    ),
    "fledge.experiments.comparison": ("compare",),
    "fledge.experiments.config": (
        "ArmConfig",
        "ExperimentConfig",
    ),
    "fledge.experiments.evaluation": (
        "Evaluation",
        "evaluate",
    ),
    "fledge.experiments.result": (
        "ArmResult",
        "ExperimentResult",
    ),
    "fledge.experiments.run": (
        "resume_experiment",
        "run_experiment",
    ),
    "fledge.experiments.run_summary": ("RunSummary",),
    "fledge.experiments.runs": ("runs",),
    "fledge.monitoring.health": ("Health",),
    "fledge.prompts.prompt": (
        "Draft",
        "Prompt",
        "PromptStore",
    ),
    "fledge.prompts.store": ("open_prompts",),
    "fledge.questions.layout": ("QuestionLayout",),
    "fledge.questions.question_set": (
        "Question",
        "QuestionSet",
    ),
    "fledge.questions.sources": ("read_questions",),
    "fledge.questions.set_version": ("QuestionSetVersion",),
    "fledge.questions.versions": (
        "QuestionsConfig",
        "register_questions",
    ),
    "fledge.registry.moves": (
        "AliasChange",
        "AliasMove",
        "HistoryNote",
    ),
    "fledge.registry.registered": (
        "Release",
        "Standing",
    ),
    "fledge.registry.release": (
        "ReleaseConfig",
        "Verification",
        "history",
        "promote",
        "register",
        "rollback",
        "verify",
    ),
    "fledge.scoring._mlflow_scorers": ("mlflow_scorers",),
    "fledge.scoring.agreement": ("Agreement",),
    "fledge.scoring.calibration": (
        "Calibration",
        "Disagreement",
        "calibrate_judge",
    ),
    "fledge.scoring.catalogue": ("scorer",),
    "fledge.scoring.judge": (
        "JudgeConfig",
        "JudgeCounts",
    ),
    "fledge.scoring.scorer": ("Grade",),
    "fledge.supervision.config": ("ServeConfig",),
    "fledge.supervision.endpoint_health": (
        "EndpointHealth",
        "monitor",
    ),
    "fledge.supervision.endpoints": (
        "EndpointStatus",
        "ProcessStatus",
        "restart",
        "serve",
        "status",
        "stop",
    ),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}
__all__ = tuple(_PUBLIC)

if TYPE_CHECKING:
    from fledge.chat.loaded_model import LoadedModel as LoadedModel
    from fledge.chat.loaded_model import load_model as load_model
    from fledge.client.answers import EndpointAnswer as EndpointAnswer
    from fledge.client.answers import Predictions as Predictions
    from fledge.client.checks import Check as Check
    from fledge.client.checks import check_endpoint as check_endpoint
    from fledge.client.checks import give_feedback as give_feedback
    from fledge.client.client import AsyncClient as AsyncClient
    from fledge.client.client import Client as Client
    from fledge.comparison.findings import ArmSummary as ArmSummary
    from fledge.comparison.findings import ArmWarning as ArmWarning
    from fledge.comparison.findings import Comparison as Comparison
    from fledge.comparison.findings import Pair as Pair
    from fledge.comparison.gates import GateResult as GateResult
    from fledge.comparison.guards import GuardResult as GuardResult
    from fledge.comparison.options import CompareOptions as CompareOptions
    from fledge.comparison.power import PowerPlan as PowerPlan
    from fledge.comparison.power import plan as plan
    from fledge.comparison.statistics import Omnibus as Omnibus
    from fledge.core.endpoint_state import CanaryProgress as CanaryProgress
    from fledge.core.endpoint_state import RecorderFigures as RecorderFigures
    from fledge.core.endpoint_state import ReleaseState as ReleaseState
    from fledge.core.errors import ConflictError as ConflictError
    from fledge.core.errors import CrashLoopError as CrashLoopError
    from fledge.core.errors import DamagedError as DamagedError
    from fledge.core.errors import FledgeError as FledgeError
    from fledge.core.errors import InputError as InputError
    from fledge.core.errors import MissingExtraError as MissingExtraError
    from fledge.core.errors import RefusedError as RefusedError
    from fledge.core.generation import GenerationParams as GenerationParams
    from fledge.core.limits import Limits as Limits
    from fledge.core.settings import Workspace as Workspace
    from fledge.core.types import EngineInfo as EngineInfo
    from fledge.core.types import Message as Message
    from fledge.demo.end_to_end import DemoListener as DemoListener
    from fledge.demo.end_to_end import DemoResult as DemoResult
    from fledge.demo.end_to_end import DemoStage as DemoStage
    from fledge.demo.end_to_end import run_demo as run_demo
    from fledge.engines.engine import Engine as Engine
    from fledge.engines.engine import EngineGoneError as EngineGoneError
    from fledge.engines.stream import Usage as Usage
    from fledge.experiments.answers import AnswerList as AnswerList
    from fledge.experiments.answers import AnswerRow as AnswerRow
    from fledge.experiments.answers import answers as answers
    from fledge.experiments.comparison import compare as compare
    from fledge.experiments.config import ArmConfig as ArmConfig
    from fledge.experiments.config import ExperimentConfig as ExperimentConfig
    from fledge.experiments.evaluation import Evaluation as Evaluation
    from fledge.experiments.evaluation import evaluate as evaluate
    from fledge.experiments.result import ArmResult as ArmResult
    from fledge.experiments.result import ExperimentResult as ExperimentResult
    from fledge.experiments.run import resume_experiment as resume_experiment
    from fledge.experiments.run import run_experiment as run_experiment
    from fledge.experiments.run_summary import RunSummary as RunSummary
    from fledge.experiments.runs import runs as runs
    from fledge.monitoring.health import Health as Health
    from fledge.prompts.prompt import Draft as Draft
    from fledge.prompts.prompt import Prompt as Prompt
    from fledge.prompts.prompt import PromptStore as PromptStore
    from fledge.prompts.store import open_prompts as open_prompts
    from fledge.questions.layout import QuestionLayout as QuestionLayout
    from fledge.questions.question_set import Question as Question
    from fledge.questions.question_set import QuestionSet as QuestionSet
    from fledge.questions.set_version import QuestionSetVersion as QuestionSetVersion
    from fledge.questions.sources import read_questions as read_questions
    from fledge.questions.versions import QuestionsConfig as QuestionsConfig
    from fledge.questions.versions import register_questions as register_questions
    from fledge.registry.moves import AliasChange as AliasChange
    from fledge.registry.moves import AliasMove as AliasMove
    from fledge.registry.moves import HistoryNote as HistoryNote
    from fledge.registry.registered import Release as Release
    from fledge.registry.registered import Standing as Standing
    from fledge.registry.release import ReleaseConfig as ReleaseConfig
    from fledge.registry.release import Verification as Verification
    from fledge.registry.release import history as history
    from fledge.registry.release import promote as promote
    from fledge.registry.release import register as register
    from fledge.registry.release import rollback as rollback
    from fledge.registry.release import verify as verify
    from fledge.scoring._mlflow_scorers import mlflow_scorers as mlflow_scorers
    from fledge.scoring.agreement import Agreement as Agreement
    from fledge.scoring.calibration import Calibration as Calibration
    from fledge.scoring.calibration import Disagreement as Disagreement
    from fledge.scoring.calibration import calibrate_judge as calibrate_judge
    from fledge.scoring.catalogue import scorer as scorer
    from fledge.scoring.judge import JudgeConfig as JudgeConfig
    from fledge.scoring.judge import JudgeCounts as JudgeCounts
    from fledge.scoring.scorer import Grade as Grade
    from fledge.supervision.config import ServeConfig as ServeConfig
    from fledge.supervision.endpoint_health import EndpointHealth as EndpointHealth
    from fledge.supervision.endpoint_health import monitor as monitor
    from fledge.supervision.endpoints import EndpointStatus as EndpointStatus
    from fledge.supervision.endpoints import ProcessStatus as ProcessStatus
    from fledge.supervision.endpoints import restart as restart
    from fledge.supervision.endpoints import serve as serve
    from fledge.supervision.endpoints import status as status
    from fledge.supervision.endpoints import stop as stop


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fledge' has no attribute {name!r}")
    found = getattr(importlib.import_module(_PUBLIC[name]), name)
    if not isinstance(found, FunctionType):
        return found
    from fledge.core.settings import settings_by_keyword
    from fledge.tracking.callers_store import keep_callers_store

    return keep_callers_store()(settings_by_keyword(found))


def __dir__() -> list[str]:
    return list(_PUBLIC)
