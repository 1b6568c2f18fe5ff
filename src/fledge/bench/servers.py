"""Start a server, wait until it answers, watch its memory, and stop it with all its children."""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from fledge.bench.load_client import LoadTarget, open_client
from fledge.core.errors import FledgeError
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.memory import proportional_bytes

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 10.0
SAMPLE_S = 0.5


class ServerCommand(NamedTuple):
    """A server's command, additional environment, working folder and target."""

    words: list[str]
    environment: Mapping[str, str]
    folder: Path
    target: LoadTarget


class MemoryWatch:
    """Samples the memory of a process and all its children (PSS, bytes)."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def take(self) -> int:
        """Return the peak since the last call."""
        peak, self._peak = max(self._peak, self._measure()), 0
        return peak

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self._peak = max(self._peak, self._measure())

    def _measure(self) -> int:
        return sum(proportional_bytes(process.pid) for process in _list_tree(self._process))


class Running(NamedTuple):
    """A server that answers. `ready_seconds` is the time from its start to its first answer of the right length."""

    target: LoadTarget
    ready_seconds: float
    memory: MemoryWatch


@contextmanager
def run_server(command: ServerCommand, log: Path) -> Iterator[Running]:
    """Start a server; on exit, stop it with all its processes. Raises `FledgeError` with the last line of its log if it
    does not answer."""
    began = time.monotonic()
    process = _start(command, log)
    try:
        with MemoryWatch(process.pid) as memory:
            error = asyncio.run(_await_first_answer(command.target, process))
            if error:
                raise FledgeError(f"it did not start: {error}; {_read_last_line(log)}")
            yield Running(command.target, time.monotonic() - began, memory)
    finally:
        with shield_from_interrupts():
            _stop(process)


def _start(command: ServerCommand, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        try:
            return subprocess.Popen(
                command.words,
                cwd=command.folder,
                env=clean_environment(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that Ctrl-C reaches only this process
            )
        except OSError as error:
            raise FledgeError(f"{command.words[0]}: {error.strerror}") from None


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without variables for fledge or MLflow, offline, with `own` on top."""
    left_out = ("FLEDGE_", "MLFLOW_", "PYTHONPATH", "MODEL_NAME", "EXPERIMENT_NAME", "VIRTUAL_ENV")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    quiet = {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    return {**inherited, **quiet, **own}


async def _await_first_answer(target: LoadTarget, process: "subprocess.Popen[bytes]") -> str:
    """Send requests until one succeeds. Returns the last error, empty on success."""
    deadline = time.monotonic() + START_TIMEOUT_S
    error = "no answer"
    async with open_client(target) as ask:
        while time.monotonic() < deadline:
            error = (await ask("are you there?")).error
            if not error or error.endswith(" tokens"):  # a wrong length stays wrong
                return error
            if process.poll() is not None:
                return f"exit code {process.returncode}"
            await asyncio.sleep(0.05)
    return error


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM to the first process, which should stop the others, and SIGKILL to the rest."""
    family = _list_tree(psutil.Process(process.pid)) if process.poll() is None else []
    process.terminate()
    _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for item in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            item.kill()
    with contextlib.suppress(ProcessLookupError):  # orphans of a dead first process
        os.killpg(process.pid, signal.SIGKILL)
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
    process.wait()


def _list_tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _read_last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "its log is empty"
