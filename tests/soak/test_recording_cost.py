"""The cost of recording: the same load with and without it, alternating."""

import time
from pathlib import Path

import numpy as np
import pytest

from fledge.supervision.config import ServeConfig
from tests.serving.harness import create_workspace, metrics, served, until
from tests.serving.load import Load

pytestmark = pytest.mark.soak

CLIENTS = 16
SECONDS = 8.0
TURNS = 8


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> ServeConfig:
    return create_workspace(tmp_path_factory.mktemp("cost"), engine_cache)


def test_recording_costs_little_and_catches_up(config: ServeConfig) -> None:
    with served(config, record=True) as recording, served(config, record=False) as silent:
        seen: dict[str, list[tuple[float, float]]] = {recording.url: [], silent.url: []}
        for endpoint in (recording, silent):
            Load(endpoint.url, CLIENTS, 5).run()
        for turn in range(TURNS):
            for endpoint in (recording, silent) if turn % 2 else (silent, recording):
                taken = [item.seconds for item in Load(endpoint.url, CLIENTS, SECONDS).run() if item.status == 200]
                seen[endpoint.url].append((len(taken) / SECONDS, float(np.quantile(taken, 0.99))))
        waiting, began = metrics(recording, "fledge_recorder_waiting"), time.monotonic()
        assert until(lambda: metrics(recording, "fledge_recorder_waiting") == 0, 600)
        caught_up = time.monotonic() - began
        assert metrics(recording, "fledge_outbox_dropped_total") == 0
    rate, late = np.median(seen[recording.url], axis=0) / np.median(seen[silent.url], axis=0)
    print(f"\nwith recording {rate:.3f} times the requests, p99 {late:.3f} times; "
          f"{waiting:.0f} traces that waited were shipped in {caught_up:.0f} s")  # fmt: skip
    assert rate > 0.9
    assert late < 1.2
