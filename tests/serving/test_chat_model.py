"""Releases of a model with a chat template: the same answer from its MLflow model, `/invocations` and chat."""

from pathlib import Path

import mlflow
import pytest

from fledge.client.checks import check_endpoint
from fledge.core.settings import Workspace
from fledge.engines.engine import Engine
from fledge.experiments.config import ExperimentConfig
from fledge.prompts.prompt import Draft
from fledge.prompts.store import open_prompts
from fledge.registry.release import promote, register
from fledge.supervision.config import ServeConfig
from tests.conftest import Run
from tests.models.instruct_model import ANSWER, QUESTION
from tests.serving.harness import client, served

pytestmark = pytest.mark.slow


def test_chat_model_gives_the_same_answer_on_every_interface(
    workspace: Workspace,
    instruct_model: Path,
    instruct_engine: Engine,
    fledge: Run,
) -> None:
    open_prompts(workspace=workspace).register(Draft("brief", "{{question}}", system="Be brief."))
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, model=str(instruct_model))
    releases = [register(config, name="mine"), register(config, name="other", prompt="brief")]
    mlflow.set_tracking_uri(workspace.tracking_uri)
    turns = [{"role": "user", "content": QUESTION}]
    expected = []
    for release in releases:
        promote(release.name, 1, force=True, reason="test", workspace=workspace)
        model = mlflow.pyfunc.load_model(release.model_uri)
        expected.append(model.predict([QUESTION])[0])
        assert model.predict({"messages": turns}) == [expected[-1]]
        model.unwrap_python_model().engine.close()
    serving = ServeConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, watch_s=0.0)
    for release, prompt, answer in zip(releases, ("question/1", "brief/1"), expected, strict=True):
        assert answer.startswith(ANSWER)
        with served(serving, f"{release.name}@champion", record=False) as running, client(running) as http:
            assert [check for check in check_endpoint(running.url) if not check.passed] == []
            table = http.post("/invocations", json={"inputs": [QUESTION]})
            chat = http.post("/v1/chat/completions", json={"messages": turns})
            local = fledge("chat", f"{release.name}@champion", input=QUESTION)
        assert table.json() == {"predictions": [answer]}
        assert chat.json()["choices"][0]["message"]["content"].strip() == answer
        assert {found.headers["x-fledge-prompt"] for found in (table, chat)} == {prompt}
        assert local.stdout.strip() == answer
