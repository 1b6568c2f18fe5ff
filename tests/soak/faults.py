"""What the tests of faults share: endpoints whose supervisor is a child of the test, and whether anything was lost."""

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
from tests.soak.clients import Together, Told

FLUSHED_S = 1.1  # records wait for at most so long in the memory of an endpoint
SHIPPED_S = 600.0  # the recorder makes way on a busy machine
STOPS = 40


@dataclass(frozen=True)
class Running:
    """An endpoint under a supervisor that we started ourselves, so that its exit code is ours to see."""

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
        """The process of a role, 0 where there is none at the moment."""
        content = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        found = [
            item["pid"]
            for item in content["processes"]
            if item["role"] == role and release in ("", item.get("release"))
        ]
        return int(found[0]) if found else 0

    def code(self, seconds: float) -> int:
        """The exit code, once it ends by itself."""
        return self.process.wait(seconds)


def begin(config: ServeConfig, *targets: str, **changes: Any) -> Running:
    """Start an endpoint, and do not wait for it."""
    config = replace(config, **changes)
    path = prepare(config, *(targets or (f"{NAME}@champion",)), detached=True)
    with log_file(path.parent).open("ab") as log:
        process = subprocess.Popen(
            supervisor_command(path), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return Running(config, process, path.parent)


@contextlib.contextmanager
def running(config: ServeConfig, *targets: str, **changes: Any) -> Iterator[Running]:
    """An endpoint that is ready. After the block it is gone, whatever became of it, and has left nobody behind."""
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


def settle(started: Running) -> list[Told]:
    """Have the recorder at work, as it is in an endpoint that has run for a while; what was asked for that."""
    told = Together(started.url, [{"messages": [{"role": "user", "content": "hello"}]}]).told()
    wait_until_shipped(started)
    return told


def is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/ready", trust_env=False, timeout=5).status_code == 200
    return False


def seconds_until_ready(url: str, most: float) -> float:
    began = time.monotonic()
    assert until(lambda: is_ready(url), most), f"not ready within {most:g} s"
    return time.monotonic() - began


def left_behind(started: Running) -> list[int]:
    """Processes other than its supervisor that have to do with an endpoint, by what they were told at their start."""
    state, found = started.config.state, []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            about = " ".join(process.cmdline())
            if state in about and "fledge." in about and process.pid not in (started.process.pid, os.getpid()):
                found.append(process.pid)
    return found


def check_gone(started: Running) -> float:
    """Nobody is left behind, and the port can be used again; the seconds that it took."""
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


def check_records(started: Running, told: Sequence[Told], *, killed: float | None = None, dropped: int = 0) -> int:
    """What clients have in their hands is what is in the outbox, each once, whole. Where the endpoint was `killed` at a
    moment, what ended within the second before may be missing, and as many as it has counted as `dropped`; how many
    are."""
    _check_lines(started)
    wanted = {item.request_id: item for item in told if item.request_id}
    assert len(wanted) == sum(bool(item.request_id) for item in told)
    due = {identity for identity, item in wanted.items() if not _may_be_lost(item, killed)}
    until(lambda: len(due - _recorded(started).keys()) <= dropped, 5.0)
    recorded = _recorded(started)
    missing = [item for identity, item in wanted.items() if identity not in recorded]
    assert len([item for item in missing if item.request_id in due]) <= dropped, missing
    assert [(item, recorded[identity]) for identity, item in wanted.items() if not _agree(item, recorded)] == []
    if all(item.request_id for item in told):  # else some were not told their ids
        assert recorded.keys() <= wanted.keys()
    return len(missing)


def _recorded(started: Running) -> dict[str, int]:
    records = read_outbox(started.folder / "outbox")
    counts = Counter(record.request_id for record in records)
    assert not counts or max(counts.values()) == 1
    return {record.request_id: record.status for record in records}


def _may_be_lost(item: Told, killed: float | None) -> bool:
    return killed is not None and item.ended > killed - FLUSHED_S and item.began < killed


def _agree(item: Told, recorded: dict[str, int]) -> bool:
    status = recorded.get(item.request_id, item.status)
    if item.left:
        return status in (499, 200)  # who hangs up may do so when all was sent already
    return status == item.status or (item.broken and status >= 500) or (item.status == 0 and status >= 499)


def _check_lines(started: Running) -> None:
    """Every line of the outbox is whole. Only a killed process may leave the last one of a file torn."""
    for path in outbox_files(started.folder / "outbox"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                json.loads(line)


def wait_until_shipped(started: Running, seconds: float = SHIPPED_S) -> float:
    """Until the recorder has read the outbox to its end; the seconds that it took."""
    began = time.monotonic()
    assert until(lambda: is_shipped(started), seconds), started.log
    return time.monotonic() - began


def is_shipped(started: Running) -> bool:
    try:
        content = json.loads((started.folder / "outbox" / "position.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return waiting_bytes(started.folder / "outbox", Position(**content)) == 0


def finish(started: Running, told: Sequence[Told], *, killed: float | None = None) -> int:
    """Stop an endpoint, and see that nothing was lost on the way from its clients over the outbox to MLflow; the number
    of records that a kill has cost. A recorder that is stopped makes way for nobody, so this waits least."""
    stop(started)
    lost = check_records(started, told, killed=killed)
    ship_the_rest(started)
    check_traces(started)
    return lost


def stop(started: Running) -> float:
    """The seconds that a clean stop takes."""
    began = time.monotonic()
    started.process.send_signal(signal.SIGTERM)
    assert started.code(60.0) == 0, started.log
    return time.monotonic() - began


def ship_the_rest(started: Running) -> None:
    """What a stop had no time for is shipped by the next ones."""
    for _ in range(STOPS):
        if is_shipped(started):
            return
        with running(started.config, port=started.config.port):
            pass
    assert is_shipped(started), started.log


def check_traces(started: Running) -> int:
    """Each record has one trace in MLflow, and no trace is there twice; how many records there are."""
    found = traces(started.config.tracking)
    recorded = {f"tr-{identity}" for identity in _recorded(started)}
    assert len(found) == len(set(found))
    assert recorded <= set(found)
    return len(recorded)


def traces(tracking: str) -> list[str]:
    """The ids of all traces of the endpoint."""
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
