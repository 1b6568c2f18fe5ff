"""An hour of normal traffic: no record is lost, and resources stay bounded."""

import os
import time

import pytest
from mlflow import MlflowClient

from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry.release import promote, register
from fledge.supervision.config import ServeConfig
from tests.serving.harness import measure_processes, metrics, served, until
from tests.serving.load import Load

pytestmark = pytest.mark.soak

HOURS = float(os.environ.get("FLEDGE_TEST_HOURS", "1"))


def test_an_hour_of_traffic_is_recorded_with_bounded_resources(workspace: Workspace, port: int) -> None:
    register(ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state), name="mine")
    promote("mine", 1, force=True, reason="soak", workspace=workspace)
    config = ServeConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, port=port)
    with served(config, "mine@champion") as endpoint:
        # Fill the caches, and run the largest batch that the hour can bring.
        outcomes = Load(endpoint.url, 16, 60.0, hang_ups=0.1).run()
        outcomes += Load(endpoint.url, 16, 840 * HOURS, hang_ups=0.1, think=1.0).run()
        before = measure_processes(endpoint)
        outcomes += Load(endpoint.url, 16, 2700 * HOURS, hang_ups=0.1, think=1.0).run()
        waiting, begun = metrics(endpoint, "fledge_recorder_waiting"), time.monotonic()
        caught_up = until(lambda: metrics(endpoint, "fledge_recorder_waiting") == 0, 900)
        seconds = time.monotonic() - begun
        time.sleep(5)
        after, dropped = measure_processes(endpoint), metrics(endpoint, "fledge_outbox_dropped_total")
    statuses = [item.status for item in outcomes]
    found = {status: statuses.count(status) for status in sorted(set(statuses))}
    print(f"\n{len(outcomes)} requests, {found}; {waiting:.0f} traces waited, caught up with in {seconds:.0f} s; "
          f"held before {before}, after {after}")  # fmt: skip
    assert caught_up
    assert set(found) == {200}
    assert dropped == 0
    assert _traces(workspace) == {f"tr-{item.request_id}" for item in outcomes}
    client = MlflowClient(workspace.tracking)
    experiments = [item.experiment_id for item in client.search_experiments()]
    assert not [run for run in client.search_runs(experiments) if run.info.status == "RUNNING"]
    for role, (memory, files, threads) in before.items():
        assert after[role][0] < 1.05 * memory + 5_000_000, role
        assert after[role][1] <= files + 2, role
        assert after[role][2] <= threads, role


def _traces(workspace: Workspace) -> set[str]:
    client = MlflowClient(workspace.tracking)
    experiment = client.get_experiment_by_name("mine-endpoint")
    assert experiment is not None
    found, token = set[str](), None
    while token != "":
        page = client.search_traces(
            locations=[experiment.experiment_id], max_results=500, page_token=token, include_spans=False
        )
        found |= {trace.info.trace_id for trace in page}
        token = page.token or ""
    return found
