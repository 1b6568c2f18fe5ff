"""Processes that are stopped, killed, out of memory or hung: every request has an outcome, and no process is left."""

import os
import random
import signal
import time
from typing import Any

import psutil

from fledge.core.limits import Limits
from fledge.supervision.config import ServeConfig
from tests.serving.harness import until
from tests.serving.raw import read_load
from tests.soak.clients import Clients, ConcurrentRequests
from tests.soak.faults import (
    Running,
    begin,
    check_gone,
    check_records,
    check_traces,
    finish,
    is_ready,
    running,
    seconds_until_ready,
    ship_the_rest,
    wait_for_recorder,
)
from tests.soak.table import Figures, fault

IN_FLIGHT = 32
DRAIN_S = 1.0
HEARTBEAT_S = 3.0
BOTH = ("mine@champion", "mine@challenger")


def _long(count: int) -> list[dict[str, Any]]:
    """Return requests that take some seconds together; half of them stream."""
    about = {"max_tokens": 400, "n": 4, "ignore_eos": True}
    texts = [f"Tell me of number {number}." for number in range(count)]
    return [
        {"messages": [{"role": "user", "content": text}], "stream": number % 2 == 0, **about}
        for number, text in enumerate(texts)
    ]


def _start_requests(started: Running) -> ConcurrentRequests:
    """Start requests that take some seconds, and wait until all are running."""
    requests = ConcurrentRequests(started.url, _long(IN_FLIGHT))
    assert until(lambda: read_load(started.config.port).running == IN_FLIGHT, 10.0)
    return requests


def _succeeds_again(started: Running, clients: Clients, since: float, most: float) -> float:
    """Return the seconds from `since` until a request sent after it is answered."""
    assert until(lambda: any(item.began > since and item.status == 200 for item in [*clients.outcomes]), most), (
        started.log
    )
    return min(item.ended for item in clients.outcomes if item.began > since and item.status == 200) - since


@fault(
    "1",
    f"SIGTERM with {IN_FLIGHT} requests in flight",
    "`/ready` is 503 within 1 s, all are answered whole, exit code 0",
    quick=True,
)
def test_stop_completes_running_requests(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        with running(config) as started:
            outcomes = wait_for_recorder(started)
            requests = _start_requests(started)
            stopped = time.monotonic()
            os.kill(started.process.pid, signal.SIGTERM)
            assert until(lambda: not is_ready(started.url), 5.0)
            figures["s until 503"].append(time.monotonic() - stopped)
            results = requests.outcomes()
            assert {(item.status, item.broken) for item in results} == {(200, False)}
            figures["s until the last answer"].append(max(item.ended for item in results) - stopped)
            assert started.code(60.0) == 0
            figures["s until the exit"].append(time.monotonic() - stopped)
            check_records(started, outcomes + results)
        ship_the_rest(started)
        check_traces(started)
    assert max(figures["s until 503"]) < 1.0


@fault(
    "2",
    f"requests that take longer than the drain time ({DRAIN_S:g} s)",
    "error frames or 503, exit code 0 within 5 s more",
    quick=True,
)
def test_stop_after_the_drain_time_fails_the_remaining_requests(
    config: ServeConfig, times: int, figures: Figures
) -> None:
    for _ in range(times):
        with running(config, limits=Limits(drain_s=DRAIN_S)) as started:
            outcomes = wait_for_recorder(started)
            requests = _start_requests(started)
            stopped = time.monotonic()
            os.kill(started.process.pid, signal.SIGTERM)
            results = requests.outcomes()
            figures["s until the last was told"].append(max(item.ended for item in results) - stopped)
            assert started.code(60.0) == 0
            figures["s until the exit"].append(time.monotonic() - stopped)
            assert {(item.status, item.broken) for item in results} <= {(503, False), (200, True), (200, False)}
            assert any(item.broken for item in results)
            assert any(item.status == 503 for item in results)
            check_records(started, outcomes + results)
        ship_the_rest(started)
        check_traces(started)
    assert max(figures["s until the exit"]) < DRAIN_S + 5.0


@fault(
    "3",
    "kill -9 of one of two engines under load",
    "its requests get 503 or an error frame, ready again within 10 s; the other release answers all",
    quick=True,
)
def test_killed_engine_is_restarted_without_affecting_the_other(
    config: ServeConfig, times: int, figures: Figures
) -> None:
    for _ in range(times):
        with running(config, split=("champion=50", "challenger=50")) as started:
            with Clients(started.url, 8, models=BOTH, tokens=64) as clients:
                clients.wait_for(40)
                killed = time.monotonic()
                os.kill(started.pid("engine", "mine/1"), signal.SIGKILL)
                assert until(lambda: not is_ready(started.url), 5.0)
                figures["s until ready"].append(seconds_until_ready(started.url, 30.0))
                clients.wait_for(20)
            first, second = ([item for item in clients.outcomes if item.model == name] for name in BOTH)
            assert {(item.status, item.broken) for item in first} <= {(200, False), (200, True), (503, False)}
            assert {(item.status, item.broken) for item in second} == {(200, False)}
            figures["requests told of it"].append(sum(item.status != 200 or item.broken for item in first))
            figures["slowest of the other release, s"].append(
                max(item.seconds for item in second if item.ended > killed)
            )
            finish(started, clients.outcomes)
    assert max(figures["s until ready"]) < 10.0


@fault(
    "4a",
    "kill -9 of the endpoint under load",
    "answers again; what ended a second before the kill, or after it, is recorded; no line is torn",
)
def test_killed_endpoint_process_is_restarted(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        with running(config) as started:
            with Clients(started.url, 8, pause=0.0) as clients:
                clients.wait_for(100)
                time.sleep(random.random() / 10)
                killed = time.monotonic()
                os.kill(started.pid("endpoint"), signal.SIGKILL)
                assert until(lambda: not started.pid("endpoint"), 5.0)
                figures["s until answers"].append(_succeeds_again(started, clients, killed, 30.0))
                clients.wait_for(50)
            cut = [item for item in clients.outcomes if item.status == 0]
            figures["requests cut off"].append(len(cut))
            assert len(cut) <= 16
            assert {item.status for item in clients.outcomes} <= {0, 200, 503}
            figures["records lost from memory"].append(finish(started, clients.outcomes, killed=killed))


@fault("4b", "kill -9 of the recorder under load", "nobody notices; every record has its trace, once")
def test_killed_recorder_is_restarted(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        with running(config) as started:
            outcomes = wait_for_recorder(started)
            with Clients(started.url, 8) as clients:
                clients.wait_for(50)
                killed = time.monotonic()
                os.kill(started.pid("recorder"), signal.SIGKILL)
                assert until(lambda: not started.pid("recorder"), 5.0)
                assert until(lambda: started.pid("recorder") > 0)
                figures["s until it runs"].append(time.monotonic() - killed)
                clients.wait_for(50)
            assert {(item.status, item.broken) for item in clients.outcomes} == {(200, False)}
            figures["traces"].append(len(outcomes + clients.outcomes))
            finish(started, outcomes + clients.outcomes)


@fault(
    "4c",
    "kill -9 of the supervisor under load",
    "no process is left, the port can be used, what ended a second before is recorded, the next start ships it",
)
def test_children_of_a_killed_supervisor_end(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        with running(config) as started:
            with Clients(started.url, 8, pause=0.0) as clients:
                clients.wait_for(100)
                time.sleep(random.random() / 10)
                killed = time.monotonic()
                os.kill(started.process.pid, signal.SIGKILL)
                figures["s until the port is free"].append(check_gone(started))
            figures["records lost from memory"].append(check_records(started, clients.outcomes, killed=killed))
        began = time.monotonic()
        with running(config, port=started.config.port):
            figures["s until the next is ready"].append(time.monotonic() - began)
        ship_the_rest(started)
        check_traces(started)


def _kill_every(role: str, started: Running) -> int:
    """Kill each process of a role as soon as it starts, until the endpoint ends; return their number."""
    killed: set[int] = set()
    while started.process.poll() is None:
        pid = started.pid(role) if started.folder.joinpath("state.json").exists() else 0
        if pid and pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.02)
    return len(killed)


@fault("5a", "an engine that dies at each start", "exit code 4 at the fifth, and the log says so")
def test_crash_loop_ends_the_endpoint(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        began = time.monotonic()
        started = begin(config)
        count = _kill_every("engine", started)
        figures["s until the exit"].append(time.monotonic() - began)
        figures["starts"].append(count)
        assert started.code(0.0) == 4
        assert "engine mine/1 ended with code -9; giving up after repeated crashes" in started.log
        check_gone(started)


@fault(
    "6",
    f"SIGSTOP of an engine under load (`--heartbeat-s {HEARTBEAT_S:g}`)",
    "killed, started again, answers",
)
def test_hung_engine_is_replaced(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        with running(config, heartbeat_s=HEARTBEAT_S) as started:
            with Clients(started.url, 8) as clients:
                clients.wait_for(40)
                stopped = time.monotonic()
                os.kill(started.pid("engine"), signal.SIGSTOP)
                assert until(lambda: not started.pid("engine"), 20.0)
                figures["s until killed"].append(time.monotonic() - stopped)
                figures["s until answers"].append(
                    _succeeds_again(started, clients, stopped + HEARTBEAT_S, 30.0) + HEARTBEAT_S
                )
            assert {(item.status, item.broken) for item in clients.outcomes} <= {
                (200, False),
                (200, True),
                (503, False),
            }
            assert f"did not answer for {HEARTBEAT_S:g} s" in started.log
            finish(started, clients.outcomes)


@fault(
    "8",
    "no memory left for the engine (RLIMIT_AS at what it has, 32 requests of 4 answers)",
    "every request has an outcome, the endpoint stays, answers are good as soon as there is memory",
    quick=True,
)
def test_engine_out_of_memory_recovers(config: ServeConfig, times: int, figures: Figures) -> None:
    for _ in range(times):
        with running(config) as started:
            outcomes = wait_for_recorder(started)
            engine = psutil.Process(started.pid("engine"))
            engine.rlimit(psutil.RLIMIT_AS, (engine.memory_info().vms + 1_000_000, -1))
            results = ConcurrentRequests(started.url, _long(IN_FLIGHT)).outcomes()
            figures["requests told of it"].append(sum(item.status != 200 or item.broken for item in results))
            assert {item.status for item in results} <= {200, 500, 503}
            figures["engines started anew"].append(int(started.pid("engine") != engine.pid))
            if engine.is_running():
                engine.rlimit(psutil.RLIMIT_AS, (-1, -1))
            freed = time.monotonic()
            with Clients(started.url, 4) as clients:
                figures["s until answers"].append(_succeeds_again(started, clients, freed, 30.0))
                assert until(lambda: sum(item.status == 200 for item in clients.outcomes) > 20)
            finish(started, outcomes + results + clients.outcomes)
