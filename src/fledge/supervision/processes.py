"""Processes as a user's command sees them: what they hold, and their end."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import psutil

# Supervisors that this process started: they outlive it, but as long as it lives they are its children to reap.
_started: "dict[int, subprocess.Popen[bytes]]" = {}


def start_detached(command: Sequence[str], log: BinaryIO, environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a program that goes on without us; what it writes goes to `log`."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=dict(environ)
    )
    _started[process.pid] = process
    return process


def reap() -> None:
    """Take note of those that ended."""
    for child in _started.values():
        child.poll()


def environment_of(pid: int) -> dict[str, str]:
    """What a process had in its environment when it was started; nothing where the system does not tell."""
    try:
        return psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return {}


def command_of(pid: int) -> list[str]:
    """The command line of a process; empty if it is gone."""
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def terminate(pid: int, patience_s: float) -> None:
    """SIGTERM, and SIGKILL when the end takes longer than that; returns when the process is gone."""
    for number, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if any(_is_gone(pid) for _ in _ticks(patience)):
            return


def _is_gone(pid: int) -> bool:
    child = _started.get(pid)
    if child:
        return child.poll() is not None
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _ticks(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
