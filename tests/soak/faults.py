"""Shared by the fault tests: endpoints started as child processes, and checks for lost records."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
from mlflow import MlflowClient

from fledge.core.errors import FledgeError
from fledge.core.outbox_files import outbox_files
from fledge.monitoring._mlflow_requests import trace_experiment
from fledge.serving.outbox_reader import Position, read_outbox, waiting_bytes
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import (
    EndpointStatus,
    check_port,
    log_file,
    prepare,
    status,
    supervisor_command,
)
from tests.serving.harness import NAME, free_port, until
from tests.soak.clients import ConcurrentRequests, Outcome

FLUSHED_S = 1.1  # maximum time a record waits in the memory of an endpoint
SHIPPED_S = 600.0  # the recorder is slow on a busy machine
STOPS = 40


@dataclass(frozen=True)
class Running:
    """An endpoint whose supervisor is a child process, so that its exit code is known."""

    config: ServeConfig
    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def url(self) -> str:
        return self.config.url

    @property
    def status(self) -> EndpointStatus:
        return next(item for item in status(workspace=self.config) if item.url == self.url)

    @property
    def log(self) -> str:
        return log_file(self.folder).read_text(encoding="utf-8", errors="replace")

    def pid(self, role: str, release: str = "") -> int:
        """Return the pid of a role, 0 if it is not running."""
        content = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        found = [
            item["pid"]
            for item in content["processes"]
            if item["role"] == role and release in ("", item.get("release"))
        ]
        return int(found[0]) if found else 0

    def code(self, seconds: float) -> int:
        """Wait for the exit code."""
        return self.process.wait(seconds)


def begin(config: ServeConfig, *targets: str, **changes: Any) -> Running:
    """Start an endpoint without waiting until it is ready."""
    config = replace(config, **changes)
    path = prepare(config, *(targets or (f"{NAME}@champion",)), detached=True)
    with log_file(path.parent).open("ab") as log:
        process = subprocess.Popen(
            supervisor_command(path), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return Running(config, process, path.parent)


@contextlib.contextmanager
def running(config: ServeConfig, *targets: str, **changes: Any) -> Iterator[Running]:
    """Yield a ready endpoint. Stop it after the block and check that all its processes have ended."""
    started = begin(config, *targets, **{"port": free_port(), **changes})
    try:
        assert until(lambda: is_ready(started.url), 90.0), started.log
        yield started
        if started.process.poll() is None:
            stop(started)
        check_gone(started)
    finally:
        for pid in [*left_behind(started), *([started.process.pid] if started.process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)
        started.process.wait()


def wait_for_recorder(started: Running) -> list[Outcome]:
    """Send a request and wait until it is recorded; return its outcome."""
    outcomes = ConcurrentRequests(started.url, [{"messages": [{"role": "user", "content": "hello"}]}]).outcomes()
    wait_until_shipped(started)
    return outcomes


def is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/ready", trust_env=False, timeout=5).status_code == 200
    return False


def seconds_until_ready(url: str, most: float) -> float:
    began = time.monotonic()
    assert until(lambda: is_ready(url), most), f"not ready within {most:g} s"
    return time.monotonic() - began


def left_behind(started: Running) -> list[int]:
    """Return the processes of an endpoint other than its supervisor, by their command lines."""
    state, found = started.config.state, []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            about = " ".join(process.cmdline())
            if state in about and "fledge." in about and process.pid not in (started.process.pid, os.getpid()):
                found.append(process.pid)
    return found


def check_gone(started: Running) -> float:
    """Wait until all processes have ended and the port is free; return the seconds."""
    began = time.monotonic()
    assert until(lambda: not left_behind(started), 10.0), left_behind(started)
    assert until(lambda: _is_free(started.config), 5.0)
    return time.monotonic() - began


def _is_free(config: ServeConfig) -> bool:
    try:
        check_port(config)
    except FledgeError:
        return False
    return True


def check_records(
    started: Running, outcomes: Sequence[Outcome], *, killed: float | None = None, dropped: int = 0
) -> int:
    """Check that the outbox has each request once, with the status that the client received.

    Requests that ended within a second before the endpoint was `killed`, and `dropped` others, may be missing. Return
    the number of missing ones.
    """
    _check_lines(started)
    expected = {item.request_id: item for item in outcomes if item.request_id}
    assert len(expected) == sum(bool(item.request_id) for item in outcomes)
    due = {request_id for request_id, item in expected.items() if not _may_be_lost(item, killed)}
    until(lambda: len(due - _recorded(started).keys()) <= dropped, 5.0)
    recorded = _recorded(started)
    missing = [item for request_id, item in expected.items() if request_id not in recorded]
    assert len([item for item in missing if item.request_id in due]) <= dropped, missing
    assert [(item, recorded[request_id]) for request_id, item in expected.items() if not _agree(item, recorded)] == []
    if all(item.request_id for item in outcomes):  # otherwise some ids are unknown
        assert recorded.keys() <= expected.keys()
    return len(missing)


def _recorded(started: Running) -> dict[str, int]:
    records = read_outbox(started.folder / "outbox")
    counts = Counter(record.request_id for record in records)
    assert not counts or max(counts.values()) == 1
    return {record.request_id: record.status for record in records}


def _may_be_lost(item: Outcome, killed: float | None) -> bool:
    return killed is not None and item.ended > killed - FLUSHED_S and item.began < killed


def _agree(item: Outcome, recorded: dict[str, int]) -> bool:
    status = recorded.get(item.request_id, item.status)
    if item.left:
        return status in (499, 200)  # the client may disconnect after the last byte
    return status == item.status or (item.broken and status >= 500) or (item.status == 0 and status >= 499)


def _check_lines(started: Running) -> None:
    """Check that every terminated line is valid JSON; a killed process may leave the last one incomplete."""
    for path in outbox_files(started.folder / "outbox"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                json.loads(line)


def wait_until_shipped(started: Running, seconds: float = SHIPPED_S) -> float:
    """Wait until the recorder has read the whole outbox; return the seconds."""
    began = time.monotonic()
    assert until(lambda: is_shipped(started), seconds), started.log
    return time.monotonic() - began


def is_shipped(started: Running) -> bool:
    try:
        content = json.loads((started.folder / "outbox" / "position.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return waiting_bytes(started.folder / "outbox", Position(**content)) == 0


def finish(started: Running, outcomes: Sequence[Outcome], *, killed: float | None = None) -> int:
    """Stop an endpoint, and see that nothing was lost on the way from its clients over the outbox to MLflow; the number
    of records that a kill has cost. A recorder that is stopped makes way for nobody, so this waits least."""
    stop(started)
    lost = check_records(started, outcomes, killed=killed)
    ship_the_rest(started)
    check_traces(started)
    return lost


def stop(started: Running) -> float:
    """Stop the endpoint and return the seconds."""
    began = time.monotonic()
    started.process.send_signal(signal.SIGTERM)
    assert started.code(60.0) == 0, started.log
    return time.monotonic() - began


def ship_the_rest(started: Running) -> None:
    """Restart the endpoint until the recorder has shipped all records."""
    for _ in range(STOPS):
        if is_shipped(started):
            return
        with running(started.config, port=started.config.port):
            pass
    assert is_shipped(started), started.log


def check_traces(started: Running) -> int:
    """Check that each record has exactly one trace in MLflow; return the number of records."""
    found = traces(started.config.tracking)
    recorded = {f"tr-{request_id}" for request_id in _recorded(started)}
    assert len(found) == len(set(found))
    assert recorded <= set(found)
    return len(recorded)


def traces(tracking: str) -> list[str]:
    """Return the ids of all traces of the endpoint."""
    client, token, found = MlflowClient(tracking), None, list[str]()
    experiment = client.get_experiment_by_name(trace_experiment(NAME))
    if experiment is None:
        return []
    while token != "":
        page = client.search_traces(
            locations=[experiment.experiment_id], max_results=500, page_token=token, include_spans=False
        )
        found += [trace.info.trace_id for trace in page]
        token = page.token or ""
    return found
