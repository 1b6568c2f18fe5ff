"""MLflow's evaluation and judges, with an endpoint as the evaluated model and as the judge."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.genai
import pytest
from mlflow.genai.judges import make_judge
from openai import OpenAI

from fledge.core.settings import Workspace
from fledge.scoring._mlflow_judge import open_judge
from fledge.scoring.judge import JudgeConfig, JudgeError
from fledge.scoring.scorer import Grade
from fledge.supervision.endpoints import EndpointStatus
from fledge.tracking._mlflow_connection import connect
from tests.scoring.judge_server import JudgeServer, serve
from tests.serving.harness import client, create_workspace, metrics, served
from tests.serving.judge_model import add_judge_release

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Starting with pandas version 4:DeprecationWarning"),  # MLflow's own
]

QUESTIONS = ["What is machine learning?", "What is MLOps?"]
JUDGEMENT = '{"result": 4, "rationale": "It names the field."}'


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[EndpointStatus]:
    folder = tmp_path_factory.mktemp("clients")
    config = create_workspace(folder, engine_cache)
    add_judge_release(config, JUDGEMENT, folder / "model")
    with served(config, "mine@champion", "judge@champion", engine="transformers") as running:
        yield running


def test_mlflow_evaluates_an_endpoint_with_a_judge_on_it(
    endpoint: EndpointStatus, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    connect(workspace.tracking)
    mlflow.set_experiment("clients")
    graded = make_judge(
        name="graded",
        instructions="Grade the answer in {{ outputs }} to the question in {{ inputs }} from 1 to 5.",
        model="openai:/judge",
        feedback_value_type=int,
        base_url=f"{endpoint.url}/v1/chat/completions",
    )

    @mlflow.genai.scorer  # type: ignore[untyped-decorator]
    def answered(inputs: dict[str, Any], outputs: str) -> bool:
        return bool(outputs == expected[inputs["question"]])

    with client(endpoint) as http, OpenAI(base_url=f"{endpoint.url}/v1", api_key="none") as asking:
        table = http.post("/invocations", json={"inputs": QUESTIONS, "params": {"max_tokens": 8}}).json()
        expected = dict(zip(QUESTIONS, table["predictions"], strict=True))

        def predict(question: str) -> str:
            return asking.completions.create(model="mine", prompt=question, max_tokens=8).choices[0].text.strip()

        found = mlflow.genai.evaluate(
            data=[{"inputs": {"question": question}} for question in QUESTIONS],
            predict_fn=predict,
            scorers=[graded, answered],
        )
    assert found.metrics == {"graded/mean": 4.0, "answered/mean": 1.0}
    assert metrics(endpoint, "fledge_requests_total") >= 5


def test_fledge_judge_on_an_endpoint(endpoint: EndpointStatus) -> None:
    judge = open_judge(JudgeConfig(judge=f"{endpoint.url}/v1#judge"))
    assert judge.grade(QUESTIONS[0], "A field of study", "The study of algorithms") == Grade(
        0.75, "It names the field."
    )
    assert judge.counts == (1, 0, 0, 0)


def test_judge_with_30_percent_broken_responses(endpoint: EndpointStatus) -> None:
    with OpenAI(base_url=f"{endpoint.url}/v1", api_key="none") as asking:

        def judged(text: str) -> dict[str, Any]:
            said = asking.chat.completions.create(model="judge", messages=[{"role": "user", "content": text}])
            return dict(json.loads(said.choices[0].message.content or ""))

        with serve(JudgeServer(judged, broken=0.3, seed=3)) as server:
            judge = open_judge(JudgeConfig(judge=server.url, judge_retries=2))
            grades: list[float] = []
            for _ in range(60):
                with contextlib.suppress(JudgeError):
                    grades.append(judge.grade(QUESTIONS[0], "A field of study").value)
    broken = sum(count for kind, count in server.broke.items() if kind)
    assert broken > 10
    assert set(grades) == {0.75}
    assert judge.counts.failed == 60 - len(grades)
    assert judge.counts.asked == 60 + judge.counts.retried
    assert judge.counts.retried == broken - judge.counts.failed


def test_a_model_that_cannot_judge_gives_no_grade(endpoint: EndpointStatus) -> None:
    judge = open_judge(JudgeConfig(judge=f"{endpoint.url}/v1#mine", judge_retries=1))
    with pytest.raises(JudgeError):
        judge.grade(QUESTIONS[0], "A field of study")
    assert judge.counts.failed == 1
    missing = open_judge(JudgeConfig(judge=f"{endpoint.url}/v1#nobody"))
    with pytest.raises(JudgeError, match="no model 'nobody' here"):
        missing.grade(QUESTIONS[0], "A field of study")
    assert missing.counts.asked == 1
