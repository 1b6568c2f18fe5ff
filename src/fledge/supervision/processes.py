"""Start, inspect and terminate processes from a command."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import psutil

# Supervisors started by this process. They outlive it, but until then it must reap them.
_started: "dict[int, subprocess.Popen[bytes]]" = {}


def start_detached(command: Sequence[str], log: BinaryIO, environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a program that outlives this process; its output goes to `log`."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=dict(environ)
    )
    _started[process.pid] = process
    return process


def reap() -> None:
    """Reap ended children."""
    for child in _started.values():
        child.poll()


def environment_of(pid: int) -> dict[str, str]:
    """Return the initial environment of a process; empty if the system denies access."""
    try:
        return psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return {}


def command_of(pid: int) -> list[str]:
    """Return the command line of a process; empty if it is gone."""
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def terminate(pid: int, timeout_s: float) -> None:
    """Send SIGTERM, then SIGKILL after `timeout_s`; return when the process is gone."""
    for number, timeout in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if any(_is_gone(pid) for _ in _poll_until(timeout)):
            return


def _is_gone(pid: int) -> bool:
    child = _started.get(pid)
    if child:
        return child.poll() is not None
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _poll_until(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
