"""An engine that dies is restarted once; after a second death the experiment fails and can be resumed."""

import os
import signal

import psutil
import pytest
from mlflow import MlflowClient

from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.engines.engine import EngineGoneError
from fledge.experiments._mlflow_runs import find_run
from fledge.experiments.config import ExperimentConfig
from fledge.experiments.run import resume_experiment, run_experiment

pytestmark = pytest.mark.slow


class Killer:
    """Kills the engine process when the number of answers reaches each of `after`."""

    def __init__(self, *after: int) -> None:
        self._after = list(after)
        self._others = set(psutil.Process().children())  # engines of other tests
        self.killed = 0

    def __call__(self, done: int, _total: int, _failed: int, _tokens: int) -> None:
        if self._after and done >= self._after[0]:
            (engine,) = [
                child
                for child in set(psutil.Process().children()) - self._others
                if "fledge.engines.process" in " ".join(child.cmdline())
            ]
            os.kill(engine.pid, signal.SIGKILL)
            self._after.pop(0)
            self.killed += 1


def _config(workspace: Workspace) -> ExperimentConfig:
    generation = GenerationParams(max_tokens=60, ignore_eos=True)
    return ExperimentConfig(
        tracking_uri=workspace.tracking, state=workspace.state, limit=10, concurrency=4, generation=generation
    )


def test_one_engine_death_loses_no_answer(workspace: Workspace) -> None:
    killer, lines = Killer(3), list[str]()
    result = run_experiment(_config(workspace), progress=killer, say=lines.append)
    assert killer.killed == 1
    assert (result.cells, result.failed) == (40, 0)
    assert any("restarting it" in line for line in lines)


def test_experiment_resumes_after_a_second_engine_death(workspace: Workspace) -> None:
    killer, lines = Killer(3, 8), list[str]()
    with pytest.raises(EngineGoneError, match="for the second time"):
        run_experiment(_config(workspace), progress=killer, say=lines.append)
    (line,) = [line for line in lines if "--resume" in line]
    client = MlflowClient(workspace.tracking)
    run_id = find_run(client, line.split()[-1])
    assert client.get_run(run_id).info.status == "FAILED"
    asked: list[int] = []
    result = resume_experiment(run_id, progress=lambda done, *_: asked.append(done), workspace=workspace)
    assert asked[0] >= 8  # earlier answers are reused
    assert (result.cells, result.failed) == (40, 0)
    assert client.get_run(run_id).info.status == "FINISHED"
