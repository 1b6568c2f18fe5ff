"""Kill everything that a benchmark has started when it ends.

`python -m fledge.bench.guard MARK` waits until its standard input ends, which also happens if the benchmark is killed,
and kills every process with the mark in its environment.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

from fledge.core.interrupts import postpone_interrupts, shield_from_interrupts
from fledge.core.processes import module_command

MARK = "_FLEDGE_BENCH"  # inherited by all processes that a benchmark starts
PATIENCE_S = 10.0


@contextlib.contextmanager
def guard_processes() -> Iterator[None]:
    """Kill every process started inside, with its children, when the block or this process ends."""
    mark, outer = secrets.token_hex(8), os.environ.get(MARK)
    with postpone_interrupts():  # in its own session, so that Ctrl-C reaches only this process
        guard = subprocess.Popen(
            [*module_command("fledge.bench.guard"), mark], stdin=subprocess.PIPE, start_new_session=True
        )
        os.environ[MARK] = mark
    try:
        yield
    finally:
        with shield_from_interrupts():
            if outer is None:
                del os.environ[MARK]
            else:
                os.environ[MARK] = outer
            guard.communicate()


def kill_marked(mark: str) -> None:
    """Kill all processes with the mark, including those that start meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := list(_find_marked(mark))) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.5)


def _find_marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # other users' processes, and those that have just ended
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                yield process


if __name__ == "__main__":
    sys.stdin.read()
    kill_marked(sys.argv[1])
