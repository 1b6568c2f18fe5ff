"""Chat with an endpoint of fledge."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fledge.core.messages import FeedbackRecord, OutboxRecord, Record
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import promote, register
from fledge.serving.outbox_reader import Position, read_batch
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus, serve, status, stop
from tests.conftest import Run
from tests.serving.harness import until

pytestmark = pytest.mark.slow

QUESTION = "What is machine learning?"
KEY = "k" * 32


@pytest.fixture
def endpoint(workspace: Workspace, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointStatus]:
    monkeypatch.setenv("FLEDGE_API_KEY", KEY)
    register(ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state), name="mine", prompt="simple")
    promote("mine", 1, force=True, reason="test", workspace=workspace)
    config = ServeConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, port=port, record=True)
    yield serve("mine@champion", config=config)
    if status(workspace=config):
        stop(workspace=config)


def test_chat_with_an_endpoint(fledge: Run, endpoint: EndpointStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    local = fledge("chat", "mine@champion", input=QUESTION)
    assert local.stdout.startswith("Machine learning is the study of")  # filled into the release's own prompt
    lines = f"{QUESTION}\n/good clear enough\n/prompt simple\nAnd why?\n/bad\n"
    done = fledge("chat", endpoint.url, input=lines)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == local.stdout.strip()  # the same release gives the same answer
    assert len(done.stdout.splitlines()) == 2

    long = "old words " * 150
    cut = fledge("chat", f"{endpoint.url}/v1#mine@champion", "--max-tokens", "3", input=f"{long}\n{long}\n")
    assert cut.returncode == 0
    lines_of_stderr = cut.stderr.splitlines()
    assert lines_of_stderr[0] == "(cut off at the maximum number of tokens; --max-tokens N allows more)"
    assert (
        "(the 2 oldest turns were left out: the context window is full; /reset starts a new conversation)"
        in lines_of_stderr
    )

    other = fledge("chat", f"{endpoint.url}#other", input="x\n")
    assert other.returncode == 1
    assert "no model 'other' here" in other.stderr

    monkeypatch.setenv("FLEDGE_API_KEY", "wrong")
    refused = fledge("chat", endpoint.url, input="x\n")
    assert refused.returncode == 2
    assert "rejected the API key" in refused.stderr
    assert "export FLEDGE_API_KEY=" in refused.stderr
    _assert_feedback_is_recorded(endpoint)


def _assert_feedback_is_recorded(endpoint: EndpointStatus) -> None:
    folder = Path(endpoint.folder) / "outbox"

    def records() -> Sequence[Record]:
        return read_batch(folder, Position(), 1000).records

    def feedback() -> list[FeedbackRecord]:
        return [record for record in records() if isinstance(record, FeedbackRecord)]

    assert until(lambda: len(feedback()) == 2)
    assert [(record.name, record.value, record.comment) for record in feedback()] == [
        ("thumbs", True, "clear enough"),
        ("thumbs", False, ""),
    ]
    answered = [record for record in records() if isinstance(record, OutboxRecord) and record.status == 200]
    assert [record.request_id for record in feedback()] == [record.request_id for record in answered[:2]]
    # The release fills the first, the session the second.
    assert [record.prompt for record in answered[:2]] == ["simple/1", ""]
    assert answered[1].answers[0].prompt_text.endswith("user: Question: And why?\nAnswer:")


def test_session_continues_after_an_engine_crash(fledge: Run, endpoint: EndpointStatus) -> None:
    pids = {item.role: item.pid for item in endpoint.processes}
    os.kill(pids["engine"], signal.SIGKILL)
    done = fledge("chat", endpoint.url, input=f"{QUESTION}\n/help\n")
    assert "/prompt [NAME]" in done.stderr
    assert done.returncode == (0 if done.stdout else 1)
    if not done.stdout:
        assert "is not ready" in done.stderr
        assert "retry in" in done.stderr
