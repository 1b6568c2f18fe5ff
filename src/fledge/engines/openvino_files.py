"""OpenVINO's files of a snapshot: exported once for each digest and mode, complete or not at all, and kept.

In the cache a snapshot has `<digest>-exact` with fp32 weights and `<digest>-fast` with int8 weights; the latter holds
`gate.json`, what int8 does to this model.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fledge.core import state
from fledge.core.atomic_folder import build
from fledge.core.errors import FledgeError, InputError
from fledge.core.processes import module_command
from fledge.engines.engine import Mode
from fledge.models.snapshot import Snapshot
from fledge.releases.manifest import exported_beside

Say = Callable[[str], None]


class ExportError(FledgeError):
    """OpenVINO cannot run this model."""


class Gate(NamedTuple):
    """How far the fast model departs from the exact one: a ratio of perplexities, and a share of greedy tokens."""

    perplexity_ratio: float
    token_agreement: float


def exported(snapshot: Snapshot, cache: Path, mode: Mode, say: Say) -> Path:
    """The folder of the exported model: that of the snapshot's release, else the cache's.

    What is missing is made first, and said with an estimate. Raises `ExportError` where OpenVINO does not know the
    architecture, `InputError` where the model is not what it says.
    """
    beside = exported_beside(snapshot.path, mode)
    if beside is not None:
        return beside
    exact = exported_beside(snapshot.path, "exact") or _exact(snapshot, cache, say)
    if mode == "exact":
        return exact
    fast = _folder(snapshot, state.ensure(cache), "fast")
    with build(fast) as (working, lock):
        if working:
            estimate = 8 + 0.3e-6 * snapshot.parameters
            say(f"compressing {snapshot.source} to int8 and measuring what that changes: about {estimate:.0f} s")
            _run(snapshot, lock, "fast", str(exact), str(working))
            _run(snapshot, lock, "measure", str(exact), str(working))
    return fast


def in_cache(snapshot: Snapshot, cache: Path) -> dict[Mode, Path]:
    """The folders of a model that were exported before, by mode."""
    modes: tuple[Mode, ...] = ("exact", "fast")
    return {mode: folder for mode in modes if (folder := _folder(snapshot, cache, mode)).is_dir()}


def is_exported(snapshot: Snapshot, cache: Path, mode: Mode) -> bool:
    """Whether the model needs no export to run in a mode."""
    return exported_beside(snapshot.path, mode) is not None or mode in in_cache(snapshot, cache)


def read_gate(fast: Path) -> Gate:
    """What was measured when the fast model was made."""
    content = json.loads((fast / "gate.json").read_text(encoding="utf-8"))
    return Gate(content["perplexity_ratio"], content["token_agreement"])


def _folder(snapshot: Snapshot, cache: Path, mode: Mode) -> Path:
    return cache / f"{snapshot.digest[:16]}-{mode}"


def _exact(snapshot: Snapshot, cache: Path, say: Say) -> Path:
    exact = _folder(snapshot, state.ensure(cache), "exact")
    with build(exact) as (working, lock):
        if working:
            estimate = 8 + 0.12e-6 * snapshot.parameters  # measured: 8 s for 2 M parameters, 22 s for 124 M
            say(f"exporting {snapshot.source} to OpenVINO, once for this model: about {estimate:.0f} s")
            _run(
                snapshot,
                lock,
                "exact",
                str(snapshot.path),
                snapshot.source,
                str(snapshot.vocabulary),
                str(working),
            )
    return exact


def _run(snapshot: Snapshot, lock: int, *step: str) -> None:
    # A child that outlives a killed parent keeps the lock for as long as it writes.
    done = subprocess.run(
        [*module_command("fledge.engines._openvino_export"), *step],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
        check=False,
        pass_fds=(lock,),
    )
    if done.returncode != 0:
        _raise_refusal(done.stdout, done.returncode)
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise ExportError(f"OpenVINO cannot export {snapshot.source}: {last[0]}", hint="use --engine transformers")


def _raise_refusal(stdout: str, code: int) -> None:
    """What a step refused is refused, whatever engine would run it."""
    try:
        told = json.loads(stdout.strip().splitlines()[-1])
        message, hint = str(told["message"]), str(told["hint"])
    except (ValueError, LookupError, TypeError):
        return
    kind = InputError if code == InputError.exit_code else FledgeError
    raise kind(message, hint=hint)
