"""An unavailable tracking store or full disk: the endpoint keeps serving, and no record is lost."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fledge.releases import release_cache
from fledge.supervision.config import ServeConfig
from tests.experiments.tracking_server import TrackingServer
from tests.serving.harness import NAME, free_port, metrics, until
from tests.soak.clients import Clients, ConcurrentRequests, Outcome
from tests.soak.faults import (
    Running,
    check_records,
    check_traces,
    finish,
    is_ready,
    is_shipped,
    running,
    seconds_until_ready,
    ship_the_rest,
    stop,
    wait_for_recorder,
)
from tests.soak.relay import Mode, Relay
from tests.soak.table import LONG_REPEATS, Figures, fault

MINUTES = float(os.environ.get("FLEDGE_TEST_MINUTES", "10"))
LOCKED_S = 30.0
WINDOW_S = 10.0
WORSE, NOISE_MS = 1.5, 50.0  # 1.05 is the aim; the rest allows for other load
STOP_S = 30.0
PATIENT_S = 60.0  # the recorder is slow on a busy machine


@pytest.fixture
def relay(tmp_path: Path, config: ServeConfig) -> Iterator[Relay]:
    """A tracking server on the test's store, behind a relay."""
    target_port = free_port()
    server = TrackingServer(tmp_path, target_port)
    relay = Relay(free_port(), target_port)
    try:
        yield relay
    finally:
        relay.close()
        server.close()


def _tracked(config: ServeConfig, relay: Relay) -> ServeConfig:
    """Return settings for the same releases that send traces to the relay."""
    releases, reference = config.state_dir / "releases", release_cache.ReleaseRef(NAME, "champion", "")
    folder = release_cache.recall(releases, config.tracking, reference)
    assert folder is not None
    release_cache.remember(releases, relay.url, reference, folder)
    return replace(config, tracking_uri=relay.url)


def _run_clients(started: Running, seconds: float) -> list[Outcome]:
    """Run 8 clients for some seconds, check that all requests succeed, and return the outcomes."""
    with Clients(started.url, 8, pause=0.5) as clients:
        time.sleep(seconds)
    assert {(item.status, item.broken) for item in clients.outcomes} == {(200, False)}
    return clients.outcomes


def _p99(outcomes: Sequence[Outcome]) -> float:
    """Return the p99 latency in milliseconds."""
    return 1000 * float(np.quantile([item.seconds for item in outcomes], 0.99))


def _steady_p99(outcomes: Sequence[Outcome]) -> float:
    """Return the median of the p99 of ten-second windows, which is robust to bursts of other load."""
    first = min(item.began for item in outcomes)
    windows: dict[int, list[Outcome]] = {}
    for item in outcomes:
        windows.setdefault(int((item.began - first) / WINDOW_S), []).append(item)
    return float(np.median([_p99(window) for window in windows.values()]))


def _compare(before: Sequence[Outcome], during: Sequence[Outcome], figures: Figures) -> None:
    figures["requests during"].append(len(during))
    for name, p99 in (("p99", _p99), ("p99 of ten seconds", _steady_p99)):
        figures[f"{name} before, ms"].append(p99(before))
        figures[f"{name} during, ms"].append(p99(during))
    figures["ratio of the latter"].append(_steady_p99(during) / _steady_p99(before))
    assert _steady_p99(during) < WORSE * _steady_p99(before) + NOISE_MS


def _test_outage(config: ServeConfig, relay: Relay, mode: Mode, figures: Figures, times: int) -> None:
    for _ in range(times):
        with running(_tracked(config, relay)) as started:
            outcomes = wait_for_recorder(started)
            before = _run_clients(started, max(30.0, 12 * MINUTES))
            relay.set_mode(mode)
            during = _run_clients(started, 60 * MINUTES)
            assert not is_shipped(started)
            relay.set_mode("normal")
            back = time.monotonic()
            until(partial(is_shipped, started), PATIENT_S)
            _compare(before, during, figures)
            finish(started, outcomes + before + during)
            figures["s until all is replayed"].append(time.monotonic() - back)
            figures["traces"].append(check_traces(started))


ASKED = "p99 as before (within 5 %), every trace is there afterwards, once"
FOR = f"for {MINUTES:g} min, 8 clients"


@fault("14a", f"the tracking server refuses connections {FOR}", ASKED, times=1)
def test_tracking_server_that_refuses_connections(
    config: ServeConfig, relay: Relay, times: int, figures: Figures
) -> None:
    _test_outage(config, relay, "refusing", figures, times)


@fault("14b", f"the tracking server answers 500 {FOR}", ASKED, times=1)
def test_tracking_server_that_returns_500(config: ServeConfig, relay: Relay, times: int, figures: Figures) -> None:
    _test_outage(config, relay, "failing", figures, times)


@fault("14c", f"the tracking server takes connections and never answers {FOR}", ASKED, times=1)
def test_tracking_server_that_never_responds(config: ServeConfig, relay: Relay, times: int, figures: Figures) -> None:
    _test_outage(config, relay, "silent", figures, times)


@fault(
    "15",
    "SIGTERM while the tracking server refuses, fails or is silent, with 50 records not shipped",
    f"exit code 0 within {STOP_S:g} s; the next start ships them",
    times=LONG_REPEATS,
)
def test_stop_without_the_tracking_server_keeps_records(
    config: ServeConfig, relay: Relay, times: int, figures: Figures
) -> None:
    modes: tuple[Mode, ...] = ("refusing", "failing", "silent")
    for mode in modes * times:
        relay.set_mode("normal")
        with running(_tracked(config, relay)) as started:
            outcomes = wait_for_recorder(started)
            relay.set_mode(mode)
            with Clients(started.url, 8) as clients:
                clients.wait_for(50)
            figures[f"s until the exit, {mode}"].append(stop(started))
            check_records(started, outcomes + clients.outcomes)
            assert not is_shipped(started)
        relay.set_mode("normal")
        ship_the_rest(started)
        check_traces(started)
    assert max(max(figures[f"s until the exit, {mode}"]) for mode in modes) < STOP_S


@contextlib.contextmanager
def _disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small disk at a folder."""
    folder.mkdir(parents=True, mode=0o700)
    options = f"size={megabytes}m,mode=700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a disk is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


def _send_texts(url: str, count: int, characters: int) -> list[Outcome]:
    bodies = [{"messages": [{"role": "user", "content": f"{number} " + "x" * characters}]} for number in range(count)]
    outcomes = [
        item for start in range(0, count, 8) for item in ConcurrentRequests(url, bodies[start : start + 8]).outcomes()
    ]
    assert [item.status for item in outcomes] == [200] * count
    return outcomes


def _are_counted(started: Running, count: int) -> bool:
    """Return whether `count` records were written or dropped."""
    return sum(metrics(started.status, f"fledge_outbox_{what}_total") for what in ("written", "dropped")) == count


@fault(
    "16a",
    "the disk of the endpoint's folder is full (state, log, outbox)",
    "all are answered, also by an engine that is killed meanwhile; then all is written, no line is torn",
    quick=True,
)
def test_full_disk_delays_records(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        port = free_port()
        folder = config.state_dir / "endpoints" / str(port)
        with _disk(folder, 4), running(config, engine="scripted", port=port) as started:
            outcomes = wait_for_recorder(started)
            _fill(folder / "other file")
            outcomes += _send_texts(started.url, 24, 2000)
            engine, killed = started.pid("engine"), time.monotonic()
            os.kill(engine, signal.SIGKILL)
            assert until(lambda: not is_ready(started.url), 5.0)
            seconds_until_ready(started.url, 20.0)
            figures["s until a killed engine is back"].append(time.monotonic() - killed)
            outcomes += _send_texts(started.url, 24, 2000)
            (folder / "other file").unlink()
            outcomes += _send_texts(started.url, 8, 2000)
            assert until(partial(_are_counted, started, len(outcomes)))
            assert metrics(started.status, "fledge_outbox_dropped_total") == 0
            figures["records, all written"].append(len(outcomes))
            finish(started, outcomes)


@fault(
    "16b",
    "the disk is full for longer than the memory of the outbox lasts (32 MB)",
    "all are answered; what was told = what is written + what `fledge_outbox_dropped_total` counts",
)
def test_records_dropped_on_a_full_disk_are_counted(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        port = free_port()
        folder = config.state_dir / "endpoints" / str(port)
        with _disk(folder, 64), running(config, engine="scripted", port=port, watch_s=0.0) as started:
            outcomes = _send_texts(started.url, 1, 10)
            assert until(lambda: metrics(started.status, "fledge_outbox_written_total") == 1)
            _fill(folder / "other file")
            outcomes += _send_texts(started.url, 120, 190_000)
            (folder / "other file").unlink()
            assert until(partial(_are_counted, started, len(outcomes)))
            dropped = int(metrics(started.status, "fledge_outbox_dropped_total"))
            figures["told"].append(len(outcomes))
            figures["written"].append(len(outcomes) - dropped)
            figures["dropped, and counted"].append(dropped)
            assert 0 < dropped < len(outcomes)
            assert check_records(started, outcomes, dropped=dropped) == dropped


@fault(
    "17",
    f"the SQLite store is locked for {LOCKED_S:g} s (BEGIN EXCLUSIVE), 8 clients",
    "p99 as before, every trace is there afterwards, once",
    times=LONG_REPEATS,
)
def test_locked_store_delays_records(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        with running(config) as started:
            outcomes = wait_for_recorder(started)
            before = _run_clients(started, 30.0)
            with contextlib.closing(sqlite3.connect(config.tracking.removeprefix("sqlite:///"), timeout=30)) as other:
                other.execute("BEGIN EXCLUSIVE")
                during = _run_clients(started, LOCKED_S)
                assert not is_shipped(started)
                other.rollback()
            back = time.monotonic()
            until(partial(is_shipped, started), PATIENT_S)
            _compare(before, during, figures)
            finish(started, outcomes + before + during)
            figures["s until all is there"].append(time.monotonic() - back)
