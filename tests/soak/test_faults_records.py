"""A tracking store, or a disk, that is away for a while: serving goes on as before, and nothing is lost."""

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
from tests.soak.clients import Asking, Together, Told
from tests.soak.faults import (
    Running,
    check_records,
    check_traces,
    finish,
    is_ready,
    is_shipped,
    running,
    seconds_until_ready,
    settle,
    ship_the_rest,
    stop,
)
from tests.soak.relay import Mood, Relay
from tests.soak.table import LONG_REPEATS, Figures, fault

MINUTES = float(os.environ.get("FLEDGE_TEST_MINUTES", "10"))
LOCKED_S = 30.0
WINDOW_S = 10.0
WORSE, NOISE_MS = 1.5, 50.0  # 1.05 is what is hoped for; the rest is for machines with other work
STOP_S = 30.0
PATIENT_S = 60.0  # a recorder makes way on a busy machine; one that is stopped does not


@pytest.fixture
def relay(tmp_path: Path, config: ServeConfig) -> Iterator[Relay]:
    """A tracking server on the test's own store, behind something that can have it be away."""
    behind = free_port()
    server = TrackingServer(tmp_path, behind)
    relay = Relay(free_port(), behind)
    try:
        yield relay
    finally:
        relay.close()
        server.close()


def _tracked(config: ServeConfig, relay: Relay) -> ServeConfig:
    """The same releases, with traces to the server."""
    releases, reference = config.state_dir / "releases", release_cache.ReleaseRef(NAME, "champion", "")
    folder = release_cache.recall(releases, config.tracking, reference)
    assert folder is not None
    release_cache.remember(releases, relay.url, reference, folder)
    return replace(config, tracking_uri=relay.url)


def _asked(started: Running, seconds: float) -> list[Told]:
    """8 clients that ask now and then; all are answered."""
    with Asking(started.url, 8, pause=0.5) as asking:
        time.sleep(seconds)
    assert {(item.status, item.broken) for item in asking.told} == {(200, False)}
    return asking.told


def _p99(told: Sequence[Told]) -> float:
    """In milliseconds."""
    return 1000 * float(np.quantile([item.seconds for item in told], 0.99))


def _steady_p99(told: Sequence[Told]) -> float:
    """The median of the p99 of each ten seconds: a burst of somebody else's work moves few of them."""
    first = min(item.began for item in told)
    windows: dict[int, list[Told]] = {}
    for item in told:
        windows.setdefault(int((item.began - first) / WINDOW_S), []).append(item)
    return float(np.median([_p99(window) for window in windows.values()]))


def _compare(before: Sequence[Told], during: Sequence[Told], figures: Figures) -> None:
    figures["requests during"].append(len(during))
    for name, p99 in (("p99", _p99), ("p99 of ten seconds", _steady_p99)):
        figures[f"{name} before, ms"].append(p99(before))
        figures[f"{name} during, ms"].append(p99(during))
    figures["ratio of the latter"].append(_steady_p99(during) / _steady_p99(before))
    assert _steady_p99(during) < WORSE * _steady_p99(before) + NOISE_MS


def _away(config: ServeConfig, relay: Relay, mood: Mood, figures: Figures, times: int) -> None:
    for _ in range(times):
        with running(_tracked(config, relay)) as started:
            told = settle(started)
            before = _asked(started, max(30.0, 12 * MINUTES))
            relay.become(mood)
            during = _asked(started, 60 * MINUTES)
            assert not is_shipped(started)
            relay.become("well")
            back = time.monotonic()
            until(partial(is_shipped, started), PATIENT_S)
            _compare(before, during, figures)
            finish(started, told + before + during)
            figures["s until all is replayed"].append(time.monotonic() - back)
            figures["traces"].append(check_traces(started))


ASKED = "p99 as before (within 5 %), every trace is there afterwards, once"
FOR = f"for {MINUTES:g} min, 8 clients"


@fault("14a", f"the tracking server refuses connections {FOR}", ASKED, times=1)
def test_a_tracking_server_that_refuses(config: ServeConfig, relay: Relay, times: int, figures: Figures) -> None:
    _away(config, relay, "refusing", figures, times)


@fault("14b", f"the tracking server answers 500 {FOR}", ASKED, times=1)
def test_a_tracking_server_that_fails(config: ServeConfig, relay: Relay, times: int, figures: Figures) -> None:
    _away(config, relay, "failing", figures, times)


@fault("14c", f"the tracking server takes connections and never answers {FOR}", ASKED, times=1)
def test_a_tracking_server_that_is_silent(config: ServeConfig, relay: Relay, times: int, figures: Figures) -> None:
    _away(config, relay, "silent", figures, times)


@fault(
    "15",
    "SIGTERM while the tracking server refuses, fails or is silent, with 50 records not shipped",
    f"exit code 0 within {STOP_S:g} s; the next start ships them",
    times=LONG_REPEATS,
)
def test_a_stop_without_a_tracking_server(config: ServeConfig, relay: Relay, times: int, figures: Figures) -> None:
    moods: tuple[Mood, ...] = ("refusing", "failing", "silent")
    for mood in moods * times:
        relay.become("well")
        with running(_tracked(config, relay)) as started:
            told = settle(started)
            relay.become(mood)
            with Asking(started.url, 8) as asking:
                asking.wait_for(50)
            figures[f"s until the exit, {mood}"].append(stop(started))
            check_records(started, told + asking.told)
            assert not is_shipped(started)
        relay.become("well")
        ship_the_rest(started)
        check_traces(started)
    assert max(max(figures[f"s until the exit, {mood}"]) for mood in moods) < STOP_S


@contextlib.contextmanager
def _disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A disk of its own for a folder, so small that it can be filled."""
    folder.mkdir(parents=True, mode=0o700)
    options = f"size={megabytes}m,mode=700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this test mounts a small disk, and may not here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


def _texts(url: str, count: int, characters: int) -> list[Told]:
    bodies = [{"messages": [{"role": "user", "content": f"{number} " + "x" * characters}]} for number in range(count)]
    told = [item for start in range(0, count, 8) for item in Together(url, bodies[start : start + 8]).told()]
    assert [item.status for item in told] == [200] * count
    return told


def _accounts_for(started: Running, count: int) -> bool:
    """Whether so many records are written, or dropped and counted."""
    return sum(metrics(started.status, f"fledge_outbox_{what}_total") for what in ("written", "dropped")) == count


@fault(
    "16a",
    "the disk of the endpoint's folder is full (state, log, outbox)",
    "all are answered, also by an engine that is killed meanwhile; then all is written, no line is torn",
    quick=True,
)
def test_a_full_disk(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        port = free_port()
        folder = config.state_dir / "endpoints" / str(port)
        with _disk(folder, 4), running(config, engine="scripted", port=port) as started:
            told = settle(started)
            _fill(folder / "somebody's file")
            told += _texts(started.url, 24, 2000)
            engine, killed = started.pid("engine"), time.monotonic()
            os.kill(engine, signal.SIGKILL)
            assert until(lambda: not is_ready(started.url), 5.0)
            seconds_until_ready(started.url, 20.0)
            figures["s until a killed engine is back"].append(time.monotonic() - killed)
            told += _texts(started.url, 24, 2000)
            (folder / "somebody's file").unlink()
            told += _texts(started.url, 8, 2000)
            assert until(partial(_accounts_for, started, len(told)))
            assert metrics(started.status, "fledge_outbox_dropped_total") == 0
            figures["records, all written"].append(len(told))
            finish(started, told)


@fault(
    "16b",
    "the disk is full for longer than the memory of the outbox lasts (32 MB)",
    "all are answered; what was told = what is written + what `fledge_outbox_dropped_total` counts",
)
def test_a_disk_that_is_full_for_long(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        port = free_port()
        folder = config.state_dir / "endpoints" / str(port)
        with _disk(folder, 64), running(config, engine="scripted", port=port, watch_s=0.0) as started:
            told = _texts(started.url, 1, 10)
            assert until(lambda: metrics(started.status, "fledge_outbox_written_total") == 1)
            _fill(folder / "somebody's file")
            told += _texts(started.url, 120, 190_000)
            (folder / "somebody's file").unlink()
            assert until(partial(_accounts_for, started, len(told)))
            dropped = int(metrics(started.status, "fledge_outbox_dropped_total"))
            figures["told"].append(len(told))
            figures["written"].append(len(told) - dropped)
            figures["dropped, and counted"].append(dropped)
            assert 0 < dropped < len(told)
            assert check_records(started, told, dropped=dropped) == dropped


@fault(
    "17",
    f"the SQLite store is locked for {LOCKED_S:g} s (BEGIN EXCLUSIVE), 8 clients",
    "p99 as before, every trace is there afterwards, once",
    times=LONG_REPEATS,
)
def test_a_locked_store(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        with running(config) as started:
            told = settle(started)
            before = _asked(started, 30.0)
            with contextlib.closing(sqlite3.connect(config.tracking.removeprefix("sqlite:///"), timeout=30)) as other:
                other.execute("BEGIN EXCLUSIVE")
                during = _asked(started, LOCKED_S)
                assert not is_shipped(started)
                other.rollback()
            back = time.monotonic()
            until(partial(is_shipped, started), PATIENT_S)
            _compare(before, during, figures)
            finish(started, told + before + during)
            figures["s until all is there"].append(time.monotonic() - back)
