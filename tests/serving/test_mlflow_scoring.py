"""MLflow's scoring client, and its scoring server compared with an endpoint of the same release."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import promote, register
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus
from tests.serving.harness import client, create_workspace, served
from tests.serving.parquet_files import write_parquet

pytestmark = pytest.mark.slow

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
ROWS = ["What is it?", "Why, and when?"]
ANSWERS = [row.upper() for row in ROWS]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[EndpointStatus]:
    config = create_workspace(tmp_path_factory.mktemp("scoring"), engine_cache)
    with served(config, engine="scripted") as running:
        yield running


@pytest.mark.filterwarnings("ignore:.*Any type hint")  # from importing MLflow
def test_mlflow_scoring_client(endpoint: EndpointStatus) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    host, _, port = endpoint.url.removeprefix("http://").partition(":")
    scoring = ScoringServerClient(host, port)
    scoring.wait_server_ready(timeout=5)
    assert scoring.get_version().startswith("3.")
    for data in (pd.DataFrame({"question": ROWS}), ROWS, np.array(ROWS), [{"question": row} for row in ROWS]):
        found = scoring.invoke(data).get_predictions()
        assert found[0].tolist() == ANSWERS
    cut = scoring.invoke(pd.DataFrame({"question": ROWS}), params={"max_tokens": 1})
    assert json.loads(cut.to_json()) == {"predictions": ["WHAT", "WHY,"]}
    with pytest.raises(Exception, match=r"error code 400.*no column 'question'"):
        scoring.invoke(pd.DataFrame({"query": ROWS}))


@pytest.mark.filterwarnings("ignore:.*Any type hint")
def test_mlflow_scoring_server_gives_the_same_answers(
    workspace: Workspace, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow.pyfunc import scoring_server

    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # MLflow sets it and never resets it
    release = register(
        ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state), name="mine", prompt="simple"
    )
    promote("mine", 1, force=True, reason="test", workspace=workspace)
    mlflow.set_tracking_uri(workspace.tracking_uri)
    model = mlflow.pyfunc.load_model(release.model_uri)
    bodies = _bodies_for_both()
    try:
        expected = asyncio.run(_from_app(scoring_server.init(model), bodies))
    finally:
        model.unwrap_python_model().engine.close()
    config = ServeConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, port=port, watch_s=0.0)
    with served(config, record=False) as running, client(running) as http:
        responses = [
            http.post("/invocations", content=content, headers={"content-type": kind}) for content, kind in bodies
        ]
    assert [response.status_code for response in expected] == [200] * len(bodies)
    assert [response.json() for response in responses] == [response.json() for response in expected]


def _bodies_for_both() -> list[tuple[bytes, str]]:
    """Return the requests that docs/releases.md documents for MLflow's server, as content and media type."""
    questions = ["What is machine learning?", "What is MLOps?"]
    turns = [{"role": "user", "content": questions[0]}]
    frame = pd.DataFrame({"question": questions})
    params = {"max_tokens": 6, "stop": ["study"]}
    tables: list[dict[str, Any]] = [
        {"dataframe_split": frame.to_dict(orient="split")},
        {"dataframe_records": frame.to_dict(orient="records"), "params": params},
        {"instances": questions},
        {"inputs": {"question": questions}, "params": params},
        {"inputs": questions[0]},
        {"messages": turns},
        {"messages": turns, "max_tokens": 5},
        {"dataframe_records": [{"messages": turns}]},
    ]
    found = [(json.dumps(table).encode(), JSON) for table in tables]
    return [*found, (frame.to_csv(index=False).encode(), CSV), (write_parquet({"question": questions}), PARQUET)]


async def _from_app(app: Any, bodies: list[tuple[bytes, str]]) -> list[httpx.Response]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://mlflow", timeout=60) as asking:
        return [
            await asking.post("/invocations", content=content, headers={"content-type": kind})
            for content, kind in bodies
        ]
