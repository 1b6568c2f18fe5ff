"""A supervisor with a child that sends invalid messages."""

import subprocess
import sys
from pathlib import Path

import pytest

from fledge.core.decoding import read_json
from fledge.core.endpoint_state import EndpointState, RecorderFigures
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import register
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import log_file, prepare
from tests.serving.harness import until

pytestmark = pytest.mark.slow

PROGRAM = """
from fledge.supervision import process, supervisor
process.MODULES["recorder"] = "tests.supervision.confused_recorder"
supervisor.main()
"""


def test_refused_messages_are_logged_and_the_endpoint_continues(workspace: Workspace, port: int) -> None:
    register(ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state), name="mine")
    config = ServeConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, port=port, engine="scripted")
    path = prepare(config, "mine/1", detached=True)

    def shipped() -> RecorderFigures | None:
        file = path.parent / "state.json"
        return read_json(EndpointState, file).recorder if file.exists() else None

    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], cwd=root) as supervisor:
        try:
            assert until(lambda: shipped() == RecorderFigures(shipped=7, waiting=0, refused=0, last_error=""))
            assert read_json(EndpointState, path.parent / "state.json").state == "ready"
        finally:
            supervisor.terminate()
    assert supervisor.returncode == 0
    log = log_file(path.parent).read_text(encoding="utf-8")
    assert "recorder: message refused: unknown event 'promoted'" in log
    assert "recorder: message refused: event 'moved': field 'release' must be str, not 2" in log
