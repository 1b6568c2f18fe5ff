"""The MLflow model of a release: answers, streaming, traces and invalid input."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fledge.core.messages import Piece
from fledge.core.settings import Workspace
from fledge.core.types import Message
from fledge.experiments.config import ExperimentConfig
from fledge.prompts.prompt import Draft
from fledge.prompts.store import open_prompts
from fledge.registry.release import register

QUESTION = "What is machine learning?"
ANSWER = "Machine learning is the study of"
FEW = {"max_tokens": 8}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Workspace:
    """Return a workspace for the whole module; its releases include no engine."""
    folder = tmp_path_factory.mktemp("wrapper")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    return Workspace(f"sqlite:///{folder / 'mlflow.db'}", str(folder / ".fledge"))


def _load(workspace: Workspace, prompt: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = Path(workspace.state).parent
    monkeypatch.chdir(folder)
    config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)
    release = register(config, name="mine", prompt=prompt, engines=("none",))
    mlflow.set_tracking_uri(workspace.tracking_uri)
    return mlflow.pyfunc.load_model(release.model_uri)


@pytest.fixture(scope="module")
def model(stored: Workspace) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        loaded = _load(stored, "simple", monkeypatch)
        yield loaded
    loaded.unwrap_python_model().engine.close()


def test_one_row_or_many_are_answered(model: Any) -> None:
    many = model.predict(pd.DataFrame({"question": [QUESTION, "What is MLOps?"]}), params=FEW)
    assert many == [ANSWER, "MLOps is the set of pract"]
    assert model.predict(QUESTION, params=FEW) == [ANSWER]
    assert model.predict([QUESTION], params=FEW) == [ANSWER]
    assert model.predict({"question": QUESTION}, params=FEW) == [ANSWER]
    assert model.predict([{"question": QUESTION}], params={**FEW, "stop": ["is"]}) == ["Machine learning"]
    whole = model.predict(QUESTION)
    assert whole[0].startswith(ANSWER)


def test_conversations_are_answered(model: Any) -> None:
    turns = [{"role": "user", "content": QUESTION}]
    alone = model.predict({"messages": turns}, params=FEW)
    assert model.predict([{"messages": turns}, {"messages": turns}], params=FEW) == alone * 2
    turns += [{"role": "assistant", "content": alone[0]}, {"role": "user", "content": "Why?"}]
    assert len(model.predict({"messages": turns}, params=FEW)) == 1


@pytest.mark.parametrize("calls", [1, 32])
def test_table_is_one_batch_and_threads_share_the_engine(
    model: Any, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    engine = model.unwrap_python_model().engine
    handle, arrived = engine._handle_piece, threading.Event()

    def patient(piece: Piece) -> None:
        """Answer only when all questions have arrived, which never happens if calls wait for each other."""
        deadline = time.monotonic() + 60
        while not arrived.is_set() and time.monotonic() < deadline:
            if engine.stats().running == 32:
                arrived.set()
            time.sleep(0.005)
        handle(piece)

    monkeypatch.setattr(engine, "_handle_piece", patient)
    questions = [f"What is number {number}?" for number in range(32)]
    tables = [pd.DataFrame({"question": questions[number::calls]}) for number in range(calls)]
    callers = [threading.Thread(target=model.predict, args=(table,)) for table in tables]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert arrived.is_set()


def test_answer_is_streamed(model: Any) -> None:
    pieces = list(model.predict_stream({"question": QUESTION}, params=FEW))
    assert len(pieces) > 3
    assert "".join(pieces) == ANSWER
    with pytest.raises(MlflowException, match="single input"):
        list(model.predict_stream([QUESTION, QUESTION]))
    with pytest.raises(MlflowException, match="must be a text that is not empty"):
        list(model.predict_stream({"question": ""}))


@pytest.mark.parametrize(
    ("given", "params", "problem"),
    [
        ([QUESTION, " "], {}, "row 1: column 'question' must be a text that is not empty"),
        ([QUESTION, "x" * 20_000], {}, "row 1: the prompt has .* tokens"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, {}, "row 0: .* tokens"),
        ({"text": QUESTION}, {}, "no column is named 'question'"),
        (QUESTION, {"temperature": 9.0}, "temperature must be from 0 to 2, not 9"),
        (QUESTION, {"max_tokens": 0}, "max_tokens must be from 1 to 4096, not 0"),
    ],
)
def test_invalid_input_is_rejected(model: Any, given: Any, params: dict[str, Any], problem: str) -> None:
    with pytest.raises(MlflowException, match=problem):
        model.predict(given, params=params)


def test_unknown_parameter_is_rejected(model: Any) -> None:
    wrapper = model.unwrap_python_model()
    with pytest.raises(MlflowException, match="setting: temprature"):
        wrapper.predict(None, QUESTION, {"temprature": 1.0})
    assert wrapper.predict(None, QUESTION, {"max_tokens": 8, "temperature": None}) == [ANSWER]


def test_prediction_is_traced(model: Any, stored: Workspace) -> None:
    mlflow.set_experiment("traced")
    model.predict(["Is this traced?"], params=FEW)
    mlflow.flush_trace_async_logging()
    experiment = MlflowClient(stored.tracking_uri).get_experiment_by_name("traced")
    (trace,) = MlflowClient(stored.tracking_uri).search_traces([experiment.experiment_id])
    (span,) = trace.data.spans
    assert span.inputs == [{"question": "Is this traced?"}]
    assert (span.attributes["fledge.prompt"], span.attributes["max_tokens"]) == ("simple/1", 8)


@pytest.mark.filterwarnings("ignore:Starting with pandas version 4:DeprecationWarning")  # MLflow's own
def test_mlflow_evaluates_the_model(model: Any) -> None:
    @mlflow.genai.scorer  # type: ignore[untyped-decorator]
    def says(outputs: str, expectations: dict[str, Any]) -> bool:
        return str(outputs).startswith(expectations["start"])

    found = mlflow.genai.evaluate(
        data=[{"inputs": {"question": QUESTION}, "expectations": {"start": "Machine"}}],
        predict_fn=lambda question: model.predict({"question": question}, params=FEW)[0],
        scorers=[says],
    )
    assert found.metrics["says/mean"] == 1.0


def test_prompt_of_messages(stored: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = (Message("system", "Answer briefly."), Message("user", "{{question}}"))
    open_prompts(workspace=stored).register(Draft("chatty", turns))
    loaded = _load(stored, "chatty", monkeypatch)
    answers = loaded.predict([QUESTION, "What is MLOps?"], params=FEW)
    assert len(answers) == 2
    assert "".join(loaded.predict_stream(QUESTION, params=FEW)) == answers[0]
    with pytest.raises(MlflowException, match="row 1: "):
        loaded.predict([QUESTION, "x" * 20_000])
    loaded.unwrap_python_model().engine.close()


ELSEWHERE = """
import sys
sys.path = [place for place in sys.path if "__editable__" not in place and not place.endswith("/src")]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
try:
    import fledge
except ModuleNotFoundError:
    print("not installed")
import mlflow
model = mlflow.pyfunc.load_model("models:/mine/1")
import fledge
print(fledge.__file__)
print(model.predict("What is machine learning?", params={"max_tokens": 8})[0])
"""


def test_release_runs_where_fledge_is_not_installed(model: Any, stored: Workspace, tmp_path: Path) -> None:
    """The release includes fledge's code, and exports its engine with that code in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        env={"MLFLOW_TRACKING_URI": stored.tracking_uri, "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0] == "not installed"
    assert "/artifacts/code/fledge/" in lines[1]
    assert lines[2] == ANSWER
    assert (tmp_path / ".cache" / "fledge" / "engines").is_dir()
