"""A server under measurement: started, asked until it answers, its memory watched, stopped with all its children."""

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

from fledge.bench.load_client import LoadTarget, asking
from fledge.core.errors import FledgeError
from fledge.core.interrupts import shield_from_interrupts
from fledge.core.memory import proportional_bytes

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 10.0
SAMPLE_S = 0.5


class ServerCommand(NamedTuple):
    """What starts a server: the command, its environment beside ours, where it runs, and how it is asked."""

    words: list[str]
    environment: Mapping[str, str]
    folder: Path
    target: LoadTarget


class MemoryWatch:
    """Samples what a process and all its children have in memory (PSS, bytes)."""

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
        """The peak since the last call."""
        peak, self._peak = max(self._peak, self._now()), 0
        return peak

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self._peak = max(self._peak, self._now())

    def _now(self) -> int:
        return sum(proportional_bytes(process.pid) for process in _tree(self._process))


class Running(NamedTuple):
    """A server that answers. `ready_seconds` run from its command to its first answer of the right length."""

    target: LoadTarget
    ready_seconds: float
    memory: MemoryWatch


@contextmanager
def running(command: ServerCommand, log: Path) -> Iterator[Running]:
    """Start a server, and stop it with all its processes. Raises `FledgeError` with its last words if it does not
    answer."""
    began = time.monotonic()
    process = _start(command, log)
    try:
        with MemoryWatch(process.pid) as memory:
            error = asyncio.run(_first_answer(command.target, process))
            if error:
                raise FledgeError(f"it did not start: {error}; {_last_line(log)}")
            yield Running(command.target, time.monotonic() - began, memory)
    finally:
        with shield_from_interrupts():
            _stop(process)


def _start(command: ServerCommand, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as said:
        try:
            return subprocess.Popen(
                command.words,
                cwd=command.folder,
                env=clean_environment(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # a Ctrl-C is for us to hear
            )
        except OSError as error:
            raise FledgeError(f"{command.words[0]}: {error.strerror}") from None


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Our environment without what is set for fledge or MLflow, with `own` on top; nothing is asked of the network."""
    left_out = ("FLEDGE_", "MLFLOW_", "PYTHONPATH", "MODEL_NAME", "EXPERIMENT_NAME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    quiet = {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    return {**kept, **quiet, **own}


async def _first_answer(target: LoadTarget, process: "subprocess.Popen[bytes]") -> str:
    """Ask until there is an answer; returns what was wrong with the last one, empty where nothing was."""
    deadline = time.monotonic() + START_TIMEOUT_S
    error = "no answer"
    async with asking(target) as ask:
        while time.monotonic() < deadline:
            error = (await ask("are you there?")).error
            if not error or error.endswith(" tokens"):  # it runs, and another answer would be no longer
                return error
            if process.poll() is not None:
                return f"it ended with {process.returncode}"
            await asyncio.sleep(0.05)
    return error


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the first process, which is to stop the others; SIGKILL to what is left."""
    family = _tree(psutil.Process(process.pid)) if process.poll() is None else []
    process.terminate()
    _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for item in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            item.kill()
    with contextlib.suppress(ProcessLookupError):  # what a first process that died has left behind
        os.killpg(process.pid, signal.SIGKILL)
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
    process.wait()


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
