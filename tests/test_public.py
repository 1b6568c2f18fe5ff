"""The public names of the package; a change here affects users."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest

import fledge

NAMES = {
    "Agreement",
    "AliasChange",
    "AliasMove",
    "AnswerList",
    "AnswerRow",
    "ArmConfig",
    "ArmResult",
    "ArmSummary",
    "ArmWarning",
    "Calibration",
    "Check",
    "AsyncClient",
    "Client",
    "EndpointAnswer",
    "CanaryProgress",
    "ProcessStatus",
    "RecorderFigures",
    "ReleaseState",
    "Predictions",
    "Usage",
    "CompareOptions",
    "Comparison",
    "ConflictError",
    "CrashLoopError",
    "DamagedError",
    "DemoListener",
    "DemoResult",
    "DemoStage",
    "Disagreement",
    "Draft",
    "EndpointHealth",
    "EndpointStatus",
    "Engine",
    "EngineGoneError",
    "EngineInfo",
    "Evaluation",
    "ExperimentConfig",
    "ExperimentResult",
    "FledgeError",
    "GateResult",
    "GenerationParams",
    "Grade",
    "GuardResult",
    "Health",
    "HistoryNote",
    "InputError",
    "JudgeConfig",
    "JudgeCounts",
    "Limits",
    "LoadedModel",
    "Message",
    "MissingExtraError",
    "Omnibus",
    "Pair",
    "PowerPlan",
    "Prompt",
    "PromptStore",
    "Question",
    "QuestionLayout",
    "QuestionSet",
    "QuestionSetVersion",
    "QuestionsConfig",
    "RefusedError",
    "Release",
    "ReleaseConfig",
    "RunSummary",
    "ServeConfig",
    "Standing",
    "Verification",
    "Workspace",
    "answers",
    "calibrate_judge",
    "check_endpoint",
    "compare",
    "evaluate",
    "give_feedback",
    "history",
    "load_model",
    "mlflow_scorers",
    "monitor",
    "open_prompts",
    "plan",
    "promote",
    "read_questions",
    "register",
    "register_questions",
    "restart",
    "resume_experiment",
    "rollback",
    "run_demo",
    "run_experiment",
    "runs",
    "scorer",
    "serve",
    "status",
    "stop",
    "verify",
}


def test_public_names_are_pinned() -> None:
    assert set(fledge.__all__) == NAMES
    for name in NAMES:
        assert getattr(fledge, name) is not None


@pytest.mark.parametrize("name", sorted(NAMES))
def test_types_of_parameters_and_results_are_public(name: str) -> None:
    public = {item: getattr(fledge, item) for item in NAMES}
    found = public[name]
    if isinstance(found, type) and not (is_dataclass(found) or hasattr(found, "_fields")):
        return
    hints = get_type_hints(found, localns={**public, "pd": pd})
    ours = {kind for hint in hints.values() for kind in _classes(hint) if kind.__module__.startswith("fledge.")}
    assert {kind.__name__ for kind in ours if kind not in public.values()} == set()


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes in an annotation."""
    if isinstance(hint, list):  # the parameters of a Callable
        yield from (kind for part in hint for kind in _classes(part))
    elif parts := get_args(hint):
        yield from (kind for part in parts for kind in _classes(part))
    elif isinstance(hint, type):
        yield hint


def test_settings_are_given_by_keyword() -> None:
    verbs = [name for name in NAMES if inspect.isfunction(getattr(fledge, name))]
    settings = fledge.Workspace("sqlite:///nowhere.db")
    for name in verbs:
        kinds = {item.name: item.kind for item in inspect.signature(getattr(fledge, name)).parameters.values()}
        assert kinds.get("workspace", inspect.Parameter.KEYWORD_ONLY) is inspect.Parameter.KEYWORD_ONLY, name
        if "workspace" in kinds:
            with pytest.raises(fledge.InputError, match=f"{name} takes its settings by keyword") as caught:
                getattr(fledge, name)(settings, "a", "b")
            assert caught.value.hint == f"fledge.{name}(..., workspace=...)"


def test_functions_are_not_hidden_by_packages_of_the_same_name() -> None:
    assert callable(fledge.compare)
    assert callable(fledge.serve)


def test_importing_the_package_does_nothing() -> None:
    program = (
        "import os, sys; before = dict(os.environ), os.listdir(); import fledge; "
        "assert (dict(os.environ), os.listdir()) == before; "
        "sys.exit(len([name for name in sys.modules if name.startswith('fledge.')]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
