"""The measured processes of a benchmark: each alone, watched, and gone when it ends or takes too long."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.interrupts import postpone_interrupts
from fledge.core.memory import proportional_bytes
from fledge.core.types import Say

SAMPLE_S = 0.5
START_S = 600.0  # to load a model on a slow machine
SLOWEST_TOKENS_PER_S = 1.0  # what is slower than this has hung


class Measured(NamedTuple):
    """The lines of JSON that a process wrote, and the most memory it had (PSS, with its children), in bytes."""

    lines: list[dict[str, Any]]
    memory_bytes: int


class BenchDeadlineError(FledgeError):
    """A measured process wrote nothing for too long."""


def run(command: list[str], deadline_s: float, told: Callable[[int], None] = lambda _: None) -> Measured:
    """Run a program to its end; `told` hears how many lines there are.

    Raises `DeadlineError` if it writes no line for `deadline_s`; it is killed then. Raises `FledgeError` if it fails.
    """
    lines: list[dict[str, Any]] = []
    with _child(command) as child, _Watch(child, deadline_s) as watch:
        assert child.stdout  # noqa: S101 (opened as a pipe)
        for line in child.stdout:
            if not line.endswith("\n"):  # cut off by its end
                break
            watch.heard()
            lines.append(json.loads(line))
            told(len(lines))
        if watch.expired:
            raise BenchDeadlineError(f"a measured process was stopped: it wrote nothing for {deadline_s:g} s")
    return Measured(lines, watch.peak_bytes)


def deadline(tokens: int) -> float:
    """Seconds in which a process must have loaded a model and generated so many tokens, however slow the machine is."""
    return START_S + tokens / SLOWEST_TOKENS_PER_S


def module(name: str, *arguments: Any) -> list[str]:
    """The command that runs a module of this package; what is no text is passed as JSON."""
    words = [item if isinstance(item, str) else json.dumps(item) for item in arguments]
    return [sys.executable, "-m", f"fledge.bench.{name}", *words]


def random_model(cache_dir: Path, say: Say) -> Path:
    """A model of DialoGPT-small's architecture with random weights, made once."""
    folder = state.ensure(cache_dir / "bench") / "random-dialogpt-small"
    if not folder.is_dir():
        say("making a model of DialoGPT-small's architecture with random weights, about 10 s")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            run(module("_hf_peer", "model", {"folder": f"{temporary}/model"}), START_S)
            Path(temporary, "model").rename(folder)
    return folder


def end_group(process: "subprocess.Popen[Any]") -> None:
    """Kill a process that leads a session of its own, and all of that session's first group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _child(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process of ours that must end well, and does not outlive us."""
    child: subprocess.Popen[str] | None = None
    with tempfile.TemporaryFile("w+") as said:
        try:
            with postpone_interrupts():
                child = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
                )
            yield child
            if child.wait():
                said.seek(0)
                last = said.read().strip().splitlines()[-1:] or ["no message"]
                raise FledgeError(f"a measured process ended with {child.returncode}: {last[0]}")
        finally:
            if child is not None:
                end_group(child)
                child.communicate()


class _Watch:
    """Samples the proportional memory of a process and its children, and kills them where no line comes in time."""

    def __init__(self, child: "subprocess.Popen[str]", deadline_s: float) -> None:
        self.peak_bytes = 0
        self.expired = False
        self._child, self._deadline_s = child, deadline_s
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def heard(self) -> None:
        """A line has come."""
        self._last = time.monotonic()

    def _run(self) -> None:
        process = psutil.Process(self._child.pid)
        while not self._done.wait(SAMPLE_S):
            if time.monotonic() - self._last > self._deadline_s:
                self.expired = True
                end_group(self._child)
                return
            try:
                now = sum(proportional_bytes(item.pid) for item in [process, *process.children(recursive=True)])
            except psutil.Error:  # it has just ended
                continue
            self.peak_bytes = max(self.peak_bytes, now)
