"""Nothing that a benchmark starts outlives it.

`python -m fledge.bench.guard MARK` waits until its standard input ends, as it also does when the benchmark was killed,
and kills every process that has the mark in its environment.
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

MARK = "_FLEDGE_BENCH"  # inherited by all that a benchmark starts, and by what they start
PATIENCE_S = 10.0


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Kill every process that was started inside, with its children, when the block ends or this process does."""
    mark, outer = secrets.token_hex(8), os.environ.get(MARK)
    with postpone_interrupts():  # in a session of its own, so that a Ctrl-C is for us to hear
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
    """Kill all processes with the mark; what they start meanwhile has it too."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := list(_marked(mark))) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.5)


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # those of others, and what has just ended
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                yield process


if __name__ == "__main__":
    sys.stdin.read()
    kill_marked(sys.argv[1])
