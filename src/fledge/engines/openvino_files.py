"""OpenVINO's files of a snapshot: exported once for each digest and mode, complete or not at all, and kept.

In the cache a snapshot has `<digest>-exact` with fp32 weights and `<digest>-fast` with int8 weights; the latter holds
`gate.json`, what int8 does to this model.
"""

import contextlib
import fcntl
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from fledge.core import state
from fledge.core.atomic_folder import build
from fledge.core.errors import FledgeError, rebuild
from fledge.core.processes import module_command
from fledge.core.types import Mode, Say
from fledge.models.snapshot import Snapshot
from fledge.releases.manifest import exported_beside
from fledge.releases.shared_files import files_of_exports

HEARTBEAT_S = 15.0


class ExportError(FledgeError):
    """OpenVINO cannot run this model."""


class Int8Gate(NamedTuple):
    """How far the fast model departs from the exact one: a ratio of perplexities, and a share of greedy tokens."""

    perplexity_ratio: float
    token_agreement: float


def find_or_export(snapshot: Snapshot, cache: Path, mode: Mode, say: Say) -> Path:
    """Return the folder of the exported model: the release's own, else the cache's, exporting it first if needed.

    Raises `ExportError` where OpenVINO does not know the architecture, `InputError` where the model is not what it
    says.
    """
    beside = exported_beside(snapshot.path, mode)
    if beside is not None:
        return beside
    exact = exported_beside(snapshot.path, "exact") or _exact(snapshot, cache, say)
    if mode == "exact":
        return exact
    fast = _folder(snapshot, state.ensure(cache), "fast")
    _let_others_finish(fast, say)
    with build(fast) as (working, lock):
        if working:
            with _timed(say, f"quantizing {snapshot.source} to int8", estimate_s(snapshot, "fast")) as tell:
                _run(snapshot, lock, tell, "fast", str(exact), str(working))
                _run(snapshot, lock, tell, "measure", str(exact), str(working))
    return fast


def export_seconds(snapshot: Snapshot, cache: Path, modes: Sequence[Mode]) -> float:
    """An estimate of what `exported` takes for these modes; 0 where all is there."""
    missing: set[Mode] = {mode for mode in modes if not is_exported(snapshot, cache, mode)}
    if "fast" in missing and not is_exported(snapshot, cache, "exact"):
        missing.add("exact")
    return sum(estimate_s(snapshot, mode) for mode in missing)


def estimate_s(snapshot: Snapshot, mode: Mode) -> float:
    """Seconds that a step of an export takes; measured: 8 s for 2 M parameters, 22 s (fast: 45 s) for 124 M."""
    return 8 + (0.12e-6 if mode == "exact" else 0.3e-6) * snapshot.parameters


def known_files(cache: Path, model_digest: str) -> dict[str, Path]:
    """The files of a model that was exported before, by their SHA-256."""
    return files_of_exports(cache / f"{model_digest[:16]}-{mode}" for mode in ("exact", "fast"))


def is_exported(snapshot: Snapshot, cache: Path, mode: Mode) -> bool:
    """Whether the model needs no export to run in a mode."""
    return exported_beside(snapshot.path, mode) is not None or _folder(snapshot, cache, mode).is_dir()


def read_gate(fast: Path) -> Int8Gate:
    """What was measured when the fast model was made."""
    content = json.loads((fast / "gate.json").read_text(encoding="utf-8"))
    return Int8Gate(content["perplexity_ratio"], content["token_agreement"])


def _folder(snapshot: Snapshot, cache: Path, mode: Mode) -> Path:
    return cache / f"{snapshot.digest[:16]}-{mode}"


def _exact(snapshot: Snapshot, cache: Path, say: Say) -> Path:
    exact = _folder(snapshot, state.ensure(cache), "exact")
    _let_others_finish(exact, say)
    with build(exact) as (working, lock):
        if working:
            with _timed(say, f"exporting {snapshot.source} to OpenVINO", estimate_s(snapshot, "exact")) as tell:
                about = (str(snapshot.path), snapshot.source, str(snapshot.vocabulary))
                _run(snapshot, lock, tell, "exact", *about, str(working))
    return exact


def _let_others_finish(folder: Path, say: Say) -> None:
    """Wait for another process that is making `folder`, and say so now and then."""
    started, due = time.monotonic(), 0.0
    with folder.with_suffix(".lock").open("w") as lock:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            waited = time.monotonic() - started
            if waited >= due:
                due = waited + HEARTBEAT_S
                say(f"another process is exporting this model; waiting for it, {waited:.0f} s so far")
            time.sleep(0.1)


@contextmanager
def _timed(say: Say, what: str, estimate: float) -> Iterator[Callable[[str], None]]:
    """Say what begins, with an estimate, and what it took. Yields a function that says the stage it has come to."""
    started = time.monotonic()
    say(f"{what}, once for this model: about {estimate:.0f} s")

    def tell(stage: str) -> None:
        elapsed = time.monotonic() - started
        pace = f"of about {estimate:.0f} s" if elapsed < estimate else f"where about {estimate:.0f} s were expected"
        say(f"{what}: {stage}, {elapsed:.0f} s {pace}")

    yield tell
    say(f"{what} took {time.monotonic() - started:.0f} s")


def _run(snapshot: Snapshot, lock: int, tell: Callable[[str], None], *step: str) -> None:
    """Run a step of an export; `tell` hears each stage of it, and the same one again every `HEARTBEAT_S`."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        child = subprocess.Popen(
            [*module_command("fledge.engines._openvino_export", bound=True), *step],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            errors="replace",
            pass_fds=(lock,),  # held for as long as anything writes
        )
        assert child.stdout  # noqa: S101 (opened as a pipe)
        try:
            for kind, text in _told(child.stdout):
                if kind == "refused":  # whatever engine would run it
                    refusal = json.loads(text)
                    raise rebuild(refusal["kind"], refusal["message"], refusal["hint"])
                tell(text)
            child.wait()
        finally:
            child.kill()
            child.wait()
        if child.returncode != 0:
            said.seek(0)
            last = said.read().strip().splitlines()[-1:] or [f"it ended with {child.returncode}"]
            raise ExportError(f"OpenVINO cannot export {snapshot.source}: {last[0]}", hint="use --engine transformers")


def _told(said: IO[str]) -> Iterator[tuple[str, str]]:
    """What an export tells on its stdout, as it comes: `progress` with a stage, the last one again where nothing comes
    for long, and `refused` with an error as JSON."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        with said:
            for line in said:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="export", daemon=True).start()
    stage = "starting"
    while True:
        try:
            line = lines.get(timeout=HEARTBEAT_S)
        except queue.Empty:
            yield "progress", stage
            continue
        if line is None:
            return
        kind, _, text = line.strip().partition(" ")
        if kind == "progress":
            stage = text
        if kind in ("progress", "refused"):
            yield kind, text
