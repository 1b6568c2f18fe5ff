"""The public names of the package, pinned: a change here is a change for users."""

import subprocess
import sys

import fledge

NAMES = {
    "ArmConfig",
    "AsyncClient",
    "Client",
    "CompareOptions",
    "Comparison",
    "Draft",
    "Evaluation",
    "ExperimentConfig",
    "ExperimentResult",
    "FledgeError",
    "GenerationParams",
    "JudgeConfig",
    "QuestionLayout",
    "QuestionSet",
    "QuestionsConfig",
    "ServeConfig",
    "Workspace",
    "answers",
    "calibrate_judge",
    "check_endpoint",
    "compare",
    "evaluate",
    "history",
    "mlflow_scorers",
    "open_prompts",
    "promote",
    "read_questions",
    "register",
    "register_questions",
    "resume_experiment",
    "rollback",
    "verify",
    "run_demo",
    "run_experiment",
    "runs",
    "scorer",
    "serve",
    "status",
    "stop",
}


def test_public_names() -> None:
    assert set(fledge.__all__) == NAMES
    for name in NAMES:
        assert getattr(fledge, name) is not None


def test_verbs_are_not_hidden_by_rooms() -> None:
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
