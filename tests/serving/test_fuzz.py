"""Thousands of requests that no honest client sends: each gets an answer that is no 5xx, or a closed connection, in
time; and the endpoint is afterwards what it was before."""

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
from tests.serving.harness import client, lay_out, pids, served, until
from tests.serving.hostile import HONEST, cases
from tests.serving.raw import Answer, NoHttpError, port_of, read, work_of

pytestmark = pytest.mark.slow

AT_ONCE = 48
QUIET_S = 0.15  # after an answer that is whole; then there is no second one
MOST_READERS = (os.cpu_count() or 1) + 4
LIMITS = Limits(header_timeout_s=1.0, body_timeout_s=1.0, write_timeout_s=1.0, max_body_bytes=200_000)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[EndpointStatus]:
    config = lay_out(tmp_path_factory.mktemp("fuzz"), engine_cache)
    with served(config, engine="scripted", limits=LIMITS) as running:
        yield running


class Outcome(NamedTuple):
    """What became of a case: the answers' statuses, and what is wrong with that."""

    statuses: tuple[int, ...]
    problem: str


class Condition(NamedTuple):
    """What an endpoint's process holds."""

    pid: int
    descriptors: int
    threads: int


def _condition(endpoint: EndpointStatus) -> Condition:
    process = psutil.Process(pids(endpoint)["endpoint"])
    return Condition(process.pid, process.num_fds(), process.num_threads())


def _is_as_before(before: Condition, now: Condition) -> bool:
    """The same process, that holds no more; threads that read tables are made as they are needed, and kept."""
    return (
        before.pid == now.pid and now.descriptors <= before.descriptors and now.threads <= before.threads + MOST_READERS
    )


async def _outcome(port: int, case: bytes) -> Outcome:
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
        return Outcome(statuses, _problem(found.answers, closed, found.rest))
    except NoHttpError as error:
        return Outcome((), f"no HTTP: {error}")
    finally:
        writer.transport.abort()


def _problem(found: Sequence[Answer], closed: bool, rest: bytes) -> str:
    statuses = [answer.status for answer in found]
    if any(status >= 500 for status in statuses):
        return f"answered {statuses}"
    if not closed and (rest or not found):
        return "neither answered nor closed"
    if any(len(answer.headers.get("x-request-id", "")) != 32 for answer in found):
        return "an answer without its id"
    return ""


async def _run(port: int, wanted: Iterable[bytes]) -> tuple[Counter[int], list[tuple[bytes, str]]]:
    waiting = iter(wanted)
    statuses: Counter[int] = Counter()
    problems: list[tuple[bytes, str]] = []

    async def work() -> None:
        for case in waiting:
            outcome = await _outcome(port, case)
            statuses.update(outcome.statuses or (0,))
            if outcome.problem:
                problems.append((case, outcome.problem))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return statuses, problems


def _fuzz(endpoint: EndpointStatus, count: int, seed: int) -> Counter[int]:
    """Send so many cases; the endpoint must be as it was, and must have said nothing unexpected."""
    port = port_of(endpoint.url)
    log = Path(endpoint.folder) / "log.txt"
    asyncio.run(_run(port, HONEST * 10))  # threads and caches that any work makes
    until(lambda: _condition(endpoint).descriptors < AT_ONCE, 30.0)
    before, logged = _condition(endpoint), log.stat().st_size
    statuses, problems = asyncio.run(_run(port, cases(count, seed)))
    assert problems[:5] == []
    with client(endpoint) as http:
        table = {"dataframe_split": {"columns": ["question"], "data": [["still there?"]]}}
        assert http.post("/invocations", json=table).json() == {"predictions": ["STILL THERE?"]}
        assert http.get("/ready").status_code == 200
    assert until(lambda: sum(work_of(port)) == 0)
    assert until(lambda: _is_as_before(before, _condition(endpoint))), (before, _condition(endpoint))
    with log.open(encoding="utf-8") as file:
        file.seek(logged)
        assert file.read() == ""
    return statuses


def test_honest_requests_are_answered(endpoint: EndpointStatus) -> None:
    statuses, problems = asyncio.run(_run(port_of(endpoint.url), HONEST))
    assert problems == []
    assert statuses[200] >= len(HONEST) - 4


def test_five_thousand_cases(endpoint: EndpointStatus) -> None:
    statuses = _fuzz(endpoint, 5600, seed=20261101)
    assert {200, 400, 404, 405, 408, 413, 431} <= set(statuses)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_thousand_cases(endpoint: EndpointStatus) -> None:
    seed = int(os.environ.get("FLEDGE_TEST_SEED", time.time_ns()))
    print(f"seed {seed}: {dict(_fuzz(endpoint, 50_000, seed))}")  # noqa: T201 (what failed must be repeatable)
