"""Run the measured processes of a benchmark one by one, with a deadline and a watch on memory."""

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
SLOWEST_TOKENS_PER_S = 1.0  # anything slower counts as hung


class Measured(NamedTuple):
    """The lines of JSON that a process wrote, and its peak memory (PSS, with its children) in bytes."""

    lines: list[dict[str, Any]]
    memory_bytes: int


class BenchDeadlineError(FledgeError):
    """A measured process wrote no line before its deadline."""


def run(command: list[str], deadline_s: float, on_line: Callable[[int], None] = lambda _: None) -> Measured:
    """Run a program to its end; `on_line` is called with the number of lines after each.

    Raises `BenchDeadlineError` if it writes no line for `deadline_s`, after killing it; `FledgeError` if it fails.
    """
    lines: list[dict[str, Any]] = []
    with _child(command) as child, _Watch(child, deadline_s) as watch:
        assert child.stdout  # noqa: S101 (opened as a pipe)
        for line in child.stdout:
            if not line.endswith("\n"):  # truncated
                break
            watch.reset()
            lines.append(json.loads(line))
            on_line(len(lines))
        if watch.expired:
            raise BenchDeadlineError(f"a measured process was stopped: it wrote nothing for {deadline_s:g} s")
    return Measured(lines, watch.peak_bytes)


def deadline(tokens: int) -> float:
    """Return the seconds to load a model and generate `tokens` on the slowest machine."""
    return START_S + tokens / SLOWEST_TOKENS_PER_S


def module(name: str, *arguments: Any) -> list[str]:
    """Return the command that runs a module of this package; arguments other than strings are passed as JSON."""
    words = [item if isinstance(item, str) else json.dumps(item) for item in arguments]
    return [sys.executable, "-m", f"fledge.bench.{name}", *words]


def random_model(cache_dir: Path, say: Say) -> Path:
    """Return the folder of a model of DialoGPT-small's architecture with random weights, creating it if needed."""
    folder = state.ensure(cache_dir / "bench") / "random-dialogpt-small"
    if not folder.is_dir():
        say("making a model of DialoGPT-small's architecture with random weights, about 10 s")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            run(module("_hf_peer", "model", {"folder": f"{temporary}/model"}), START_S)
            Path(temporary, "model").rename(folder)
    return folder


def end_group(process: "subprocess.Popen[Any]") -> None:
    """Kill the process group of a session leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _child(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """Run a child process and kill it on exit. Raises `FledgeError` if it fails."""
    child: subprocess.Popen[str] | None = None
    with tempfile.TemporaryFile("w+") as errors:
        try:
            with postpone_interrupts():
                child = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
                )
            yield child
            if child.wait():
                errors.seek(0)
                last = errors.read().strip().splitlines()[-1:] or ["no message"]
                raise FledgeError(f"a measured process exited with code {child.returncode}: {last[0]}")
        finally:
            if child is not None:
                end_group(child)
                child.communicate()


class _Watch:
    """Samples the proportional memory of a process and its children, and kills them at the deadline."""

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

    def reset(self) -> None:
        """Restart the deadline."""
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
            except psutil.Error:  # the process has just ended
                continue
            self.peak_bytes = max(self.peak_bytes, now)
