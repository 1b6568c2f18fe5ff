"""A long load test: every request has one outcome, and resources stay bounded."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fledge.core.limits import Limits
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus
from tests.serving.harness import create_workspace, measure_processes, metrics, outbox, served, until
from tests.serving.load import Load, RequestOutcome

pytestmark = pytest.mark.soak

MINUTES = float(os.environ.get("FLEDGE_TEST_MINUTES", "10"))
TAKEN = (200, 400, 429, 503, 504)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> ServeConfig:
    return create_workspace(tmp_path_factory.mktemp("soak"), engine_cache)


def test_64_clients_for_ten_minutes_leave_resources_unchanged(config: ServeConfig) -> None:
    with served(config, record=True) as endpoint:
        outcomes = Load(endpoint.url, 64, 180, hang_ups=0.1).run()  # fill the caches
        before = measure_processes(endpoint)
        outcomes += Load(endpoint.url, 64, 60 * MINUTES, hang_ups=0.1).run()
        assert until(lambda: metrics(endpoint, "fledge_num_requests_running") == 0)
        time.sleep(5)
        after = measure_processes(endpoint)
        _agree(endpoint, outcomes)
        print(f"\n{len(outcomes)} requests, {_counts(outcomes)}; held before {before}, after {after}")
        for role, (memory, files, threads) in before.items():
            if role != "recorder":  # it catches up only without load
                assert after[role][0] < 1.05 * memory, role
                assert after[role][1:] == (files, threads), role


def test_overload_is_refused_quickly_without_lower_throughput(config: ServeConfig) -> None:
    with served(config, record=True, limits=Limits(max_running=8, queue_requests=8)) as endpoint:
        Load(endpoint.url, 16, 5).run()
        unloaded = Load(endpoint.url, 16, 20).run()
        loaded = Load(endpoint.url, 64, 20, pause=0.1).run()
        carried = [sum(item.status == 200 for item in one) for one in (unloaded, loaded)]
        refused = [item.seconds for item in loaded if item.status == 429]
        assert all(item.retry_after for item in loaded if item.status == 429)
        late = float(np.quantile(refused, 0.99))
        print(f"\naccepted {carried[0]} unloaded, {carried[1]} at four times the load; {len(refused)} refused, "
              f"p50 {np.median(refused) * 1000:.1f} ms, p99 {late * 1000:.1f} ms")  # fmt: skip
        assert late < 0.1
        assert carried[1] >= 0.9 * carried[0]


def _agree(endpoint: EndpointStatus, outcomes: list[RequestOutcome]) -> None:
    """Check that each request was recorded with the status that the client received."""
    recorded = {record.request_id: record.status for record in outbox(endpoint)}
    assert len({item.request_id for item in outcomes}) == len(outcomes)
    for item in outcomes:
        assert item.status in TAKEN, item
        assert item.status not in (429, 503) or item.broken or item.retry_after, item
        # The client may disconnect after the last byte.
        assert recorded.pop(item.request_id) in ({499, 200} if item.left else {item.status}), item
    assert recorded == {}


def _counts(outcomes: list[RequestOutcome]) -> dict[Any, int]:
    kinds = [f"{item.status}{' left' if item.left else ''}" for item in outcomes]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
