"""`run_within` ends its run with the block."""

import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from fledge.tracking._mlflow_connection import connect, experiment_id, run_within


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return connect(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_run_ends_with_the_status_of_its_block(client: MlflowClient, error: BaseException | None, status: str) -> None:
    experiment = experiment_id(client, "runs")

    def block() -> None:
        with run_within(client, experiment, "one", {"fledge.kind": "test"}):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            block()
    else:
        block()
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.info.run_name, run.data.tags["fledge.kind"]) == (status, "one", "test")
    assert run.info.end_time


def test_interrupt_during_creation_ends_the_run(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    experiment = experiment_id(client, "runs")
    create = client.create_run

    def interrupted(*args: Any, **options: Any) -> Run:
        run = create(*args, **options)
        signal.raise_signal(signal.SIGINT)
        return run

    monkeypatch.setattr(client, "create_run", interrupted)
    with pytest.raises(KeyboardInterrupt), run_within(client, experiment, "one", {}):
        pytest.fail("the block of an interrupted run was entered")
    (run,) = client.search_runs([experiment])
    assert run.info.status == "KILLED"
