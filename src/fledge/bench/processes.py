"""The measured processes of a benchmark: each alone, watched, and gone when the benchmark ends."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.interrupts import postponed
from fledge.engines.openvino_files import Say


class Measured(NamedTuple):
    """The lines of JSON that a process wrote, and the most memory it had (PSS, with its children), in bytes."""

    lines: list[dict[str, Any]]
    memory_bytes: int


def run(command: list[str], told: Callable[[int], None] = lambda _: None) -> Measured:
    """Run a program to its end; `told` hears how many lines there are. Raises `FledgeError` if it fails."""
    lines: list[dict[str, Any]] = []
    with _child(command) as child, _peak_memory(child.pid) as peak:
        assert child.stdout  # noqa: S101 (opened as a pipe)
        for line in child.stdout:
            lines.append(json.loads(line))
            told(len(lines))
    return Measured(lines, peak[0])


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
            run(module("_hf_peer", "model", {"folder": f"{temporary}/model"}))
            Path(temporary, "model").rename(folder)
    return folder


@contextmanager
def _child(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process of ours that must end well, and does not outlive us."""
    child: subprocess.Popen[str] | None = None
    with tempfile.TemporaryFile("w+") as said:
        try:
            with postponed():
                child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
            yield child
            if child.wait():
                said.seek(0)
                last = said.read().strip().splitlines()[-1:] or ["no message"]
                raise FledgeError(f"a measured process ended with {child.returncode}: {last[0]}")
        finally:
            if child is not None:
                child.kill()
                child.communicate()


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """Samples the proportional memory of a process and its children; the list holds the highest sum in bytes."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        process = psutil.Process(pid)
        while not done.wait(0.5):
            try:
                now = sum(item.memory_full_info().pss for item in [process, *process.children(recursive=True)])
            except psutil.Error:  # it has just ended
                continue
            peak[0] = max(peak[0], now)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
