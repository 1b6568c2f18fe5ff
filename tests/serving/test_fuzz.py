"""Thousands of malformed requests: each gets a response below 500 or a closed connection in time, and the endpoint's
process is unchanged afterwards."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from fledge.core.limits import Limits
from fledge.supervision.endpoints import EndpointStatus
from tests.conftest import PATIENCE_S
from tests.serving.harness import client, create_workspace, pids, served, until
from tests.serving.hostile import VALID, cases
from tests.serving.raw import Answer, InvalidHttpError, port_of, read, read_load

pytestmark = pytest.mark.slow

CONCURRENCY = 48
QUIET_S = 0.15  # after a complete response, to see that no second one follows
MOST_READERS = (os.cpu_count() or 1) + 4
LIMITS = Limits(header_timeout_s=1.0, body_timeout_s=1.0, write_timeout_s=1.0, max_body_bytes=200_000)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[EndpointStatus]:
    config = create_workspace(tmp_path_factory.mktemp("fuzz"), engine_cache)
    with served(config, engine="scripted", limits=LIMITS) as running:
        yield running


class Outcome(NamedTuple):
    """Statuses of the responses to a case, and the problem, if any."""

    statuses: tuple[int, ...]
    problem: str


class Resources(NamedTuple):
    """Resources of an endpoint's process."""

    pid: int
    descriptors: int
    threads: int


def _read_resources(endpoint: EndpointStatus) -> Resources:
    process = psutil.Process(pids(endpoint)["endpoint"])
    return Resources(process.pid, process.num_fds(), process.num_threads())


def _is_unchanged(before: Resources, now: Resources) -> bool:
    """Return whether the same process holds no more resources; threads that read tables start on demand and stay."""
    return (
        before.pid == now.pid and now.descriptors <= before.descriptors and now.threads <= before.threads + MOST_READERS
    )


async def _send(port: int, case: bytes) -> Outcome:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, closed = b"", False
    deadline = time.monotonic() + PATIENCE_S
    try:
        writer.write(case)
        while not closed and time.monotonic() < deadline:
            found = read(received, head=b"HEAD" in case)
            whole = bool(found.answers) and not found.rest
            try:
                async with asyncio.timeout(QUIET_S if whole else deadline - time.monotonic()):
                    part = await reader.read(1 << 16)
            except TimeoutError:
                break
            except ConnectionResetError:
                part = b""
            received, closed = received + part, not part
        found = read(received, head=b"HEAD" in case)
        statuses = tuple(answer.status for answer in found.answers)
        return Outcome(statuses, _find_problem(found.answers, closed, found.rest))
    except InvalidHttpError as error:
        return Outcome((), f"not HTTP: {error}")
    finally:
        writer.transport.abort()


def _find_problem(found: Sequence[Answer], closed: bool, rest: bytes) -> str:
    statuses = [answer.status for answer in found]
    if any(status >= 500 for status in statuses):
        return f"answered {statuses}"
    if not closed and (rest or not found):
        return "neither answered nor closed"
    if any(len(answer.headers.get("x-request-id", "")) != 32 for answer in found):
        return "a response without an id"
    return ""


async def _run(port: int, requests: Iterable[bytes]) -> tuple[Counter[int], list[tuple[bytes, str]]]:
    waiting = iter(requests)
    statuses: Counter[int] = Counter()
    problems: list[tuple[bytes, str]] = []

    async def work() -> None:
        for case in waiting:
            outcome = await _send(port, case)
            statuses.update(outcome.statuses or (0,))
            if outcome.problem:
                problems.append((case, outcome.problem))

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return statuses, problems


def _fuzz(endpoint: EndpointStatus, count: int, seed: int) -> Counter[int]:
    """Send `count` cases and check that the endpoint's process is unchanged and has logged nothing."""
    port = port_of(endpoint.url)
    log = Path(endpoint.folder) / "log.txt"
    asyncio.run(_run(port, VALID * 10))  # start threads and fill caches
    until(lambda: _read_resources(endpoint).descriptors < CONCURRENCY, 30.0)
    before, logged = _read_resources(endpoint), log.stat().st_size
    statuses, problems = asyncio.run(_run(port, cases(count, seed)))
    assert problems[:5] == []
    with client(endpoint) as http:
        table = {"dataframe_split": {"columns": ["question"], "data": [["still there?"]]}}
        assert http.post("/invocations", json=table).json() == {"predictions": ["STILL THERE?"]}
        assert http.get("/ready").status_code == 200
    assert until(lambda: sum(read_load(port)) == 0)
    assert until(lambda: _is_unchanged(before, _read_resources(endpoint))), (before, _read_resources(endpoint))
    with log.open(encoding="utf-8") as file:
        file.seek(logged)
        assert file.read() == ""
    return statuses


def test_valid_requests_are_answered(endpoint: EndpointStatus) -> None:
    statuses, problems = asyncio.run(_run(port_of(endpoint.url), VALID))
    assert problems == []
    assert statuses[200] >= len(VALID) - 4


def test_five_thousand_malformed_requests(endpoint: EndpointStatus) -> None:
    statuses = _fuzz(endpoint, 5600, seed=20261101)
    assert {200, 400, 404, 405, 408, 413, 431} <= set(statuses)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_thousand_malformed_requests(endpoint: EndpointStatus) -> None:
    seed = int(os.environ.get("FLEDGE_TEST_SEED", time.time_ns()))
    print(f"seed {seed}: {dict(_fuzz(endpoint, 50_000, seed))}")  # noqa: T201 (makes a failure reproducible)
