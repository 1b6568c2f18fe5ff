"""Export snapshots to OpenVINO, atomically and once for each digest and mode.

The cache has `<digest>-exact-<revision>` with fp32 weights and `<digest>-fast-<revision>` with int8 weights and
`gate.json`, the measured effect of int8 on the model.
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
from fledge.releases.manifest import find_release_export
from fledge.releases.shared_files import files_of_exports

HEARTBEAT_S = 15.0
REVISION = 2  # of what an export contains


class ExportError(FledgeError):
    """OpenVINO does not support this model."""


class Int8Gate(NamedTuple):
    """The fast model compared with the exact one: ratio of perplexities, and fraction of equal greedy tokens."""

    perplexity_ratio: float
    token_agreement: float


def find_or_export(snapshot: Snapshot, cache: Path, mode: Mode, say: Say) -> Path:
    """Return the folder of the exported model: the release's own, else the cache's, exporting it first if needed.

    Raises `ExportError` if OpenVINO does not support the architecture, `InputError` if the model is inconsistent.
    """
    release_export = find_release_export(snapshot.path, mode)
    if release_export is not None:
        return release_export
    exact = find_release_export(snapshot.path, "exact") or _find_or_export_exact(snapshot, cache, say)
    if mode == "exact":
        return exact
    fast = _folder(snapshot, state.ensure(cache), "fast")
    _wait_for_other_exports(fast, say)
    with build(fast) as (working, lock):
        if working:
            with _report_time(say, f"quantizing {snapshot.source} to int8", estimate_s(snapshot, "fast")) as report:
                _run_step(snapshot, lock, report, "fast", str(exact), str(working))
                _run_step(snapshot, lock, report, "measure", str(exact), str(working))
    return fast


def export_seconds(snapshot: Snapshot, cache: Path, modes: Sequence[Mode]) -> float:
    """Return the estimated seconds of the missing exports for these modes."""
    missing: set[Mode] = {mode for mode in modes if not is_exported(snapshot, cache, mode)}
    if "fast" in missing and not is_exported(snapshot, cache, "exact"):
        missing.add("exact")
    return sum(estimate_s(snapshot, mode) for mode in missing)


def estimate_s(snapshot: Snapshot, mode: Mode) -> float:
    """Return the estimated seconds of an export step; measured: 8 s for 2 M parameters, 22 s (fast: 45 s) for 124 M."""
    return 8 + (0.12e-6 if mode == "exact" else 0.3e-6) * snapshot.parameters


def known_files(cache: Path, model_digest: str) -> dict[str, Path]:
    """Return the files of a model's earlier exports by SHA-256."""
    return files_of_exports(cache / _folder_name(model_digest, mode) for mode in ("exact", "fast"))


def is_exported(snapshot: Snapshot, cache: Path, mode: Mode) -> bool:
    """Return whether a model is already exported for a mode."""
    return find_release_export(snapshot.path, mode) is not None or _folder(snapshot, cache, mode).is_dir()


def read_gate(fast: Path) -> Int8Gate:
    """Return the measurements of a fast export."""
    content = json.loads((fast / "gate.json").read_text(encoding="utf-8"))
    return Int8Gate(content["perplexity_ratio"], content["token_agreement"])


def _folder(snapshot: Snapshot, cache: Path, mode: Mode) -> Path:
    return cache / _folder_name(snapshot.digest, mode)


def _folder_name(digest: str, mode: Mode) -> str:
    return f"{digest[:16]}-{mode}-{REVISION}"


def _find_or_export_exact(snapshot: Snapshot, cache: Path, say: Say) -> Path:
    exact = _folder(snapshot, state.ensure(cache), "exact")
    _wait_for_other_exports(exact, say)
    with build(exact) as (working, lock):
        if working:
            with _report_time(say, f"exporting {snapshot.source} to OpenVINO", estimate_s(snapshot, "exact")) as report:
                about = (str(snapshot.path), snapshot.source, str(snapshot.vocabulary))
                _run_step(snapshot, lock, report, "exact", *about, str(working))
    return exact


def _wait_for_other_exports(folder: Path, say: Say) -> None:
    """Wait for another process that is exporting to `folder`, with progress messages."""
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
def _report_time(say: Say, what: str, estimate: float) -> Iterator[Callable[[str], None]]:
    """Say what starts, with an estimate, and how long it took. Yields a function that reports a stage."""
    started = time.monotonic()
    say(f"{what}, once for this model: about {estimate:.0f} s")

    def report(stage: str) -> None:
        elapsed = time.monotonic() - started
        pace = f"of about {estimate:.0f} s" if elapsed < estimate else f"where about {estimate:.0f} s were expected"
        say(f"{what}: {stage}, {elapsed:.0f} s {pace}")

    yield report
    say(f"{what} took {time.monotonic() - started:.0f} s")


def _run_step(snapshot: Snapshot, lock: int, report: Callable[[str], None], *step: str) -> None:
    """Run an export step; `report` gets each stage, and the current one again every `HEARTBEAT_S`."""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        child = subprocess.Popen(
            [*module_command("fledge.engines._openvino_export", bound=True), *step],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            pass_fds=(lock,),  # keeps the lock until the child has finished writing
        )
        assert child.stdout  # noqa: S101 (opened as a pipe)
        try:
            for kind, text in _read_messages(child.stdout):
                if kind == "refused":  # the model is invalid for every engine
                    refusal = json.loads(text)
                    raise rebuild(refusal["kind"], refusal["message"], refusal["hint"])
                report(text)
            child.wait()
        finally:
            child.kill()
            child.wait()
        if child.returncode != 0:
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            raise ExportError(f"OpenVINO cannot export {snapshot.source}: {last[0]}", hint="use --engine transformers")


def _read_messages(output: IO[str]) -> Iterator[tuple[str, str]]:
    """Yield an export's messages: `progress` with a stage, repeated every `HEARTBEAT_S`, or `refused` with an error as
    JSON."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        with output:
            for line in output:
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
