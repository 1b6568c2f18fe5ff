"""Environments of other people's programs: each made once, apart from ours and from each other."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from fledge.core import state
from fledge.core.errors import FledgeError, MissingExtraError
from fledge.core.types import Say

MARKER = "complete.json"
NEED_BYTES = 4_000_000_000
INSTALL_S = 3600.0


def environment(name: str, packages: Sequence[str], minutes: float, state_dir: Path, say: Say) -> Path:
    """The folder of an environment's programs, with torch and `packages` in it; made if it is not there as asked.

    Packages without a version have that which is installed beside fledge, so that nobody is measured with another
    torch or transformers. Raises `FledgeError` with pip's last words where it cannot be made.
    """
    wanted = [pinned(package) for package in ("torch", *packages)]
    folder = state.ensure(state_dir / "bench" / "envs") / name
    if _found(folder) != wanted:
        say(f"installing {packages[0]} into an environment of its own, once: about {minutes:g} min")
        state.check_writable(folder.parent, NEED_BYTES)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        install = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        # torch by itself and by its exact version: pip would look for another build of it otherwise.
        _run([*install, wanted[0]])
        _run([*install, *wanted])
        state.write_json(folder / MARKER, wanted)
    return folder / "bin"


def pinned(package: str) -> str:
    """`name==version` for what is installed here; a version that is given stays. Raises `FledgeError` if there is
    neither."""
    if "==" in package:
        return package
    try:
        version = metadata.version(package.partition("[")[0])
    except metadata.PackageNotFoundError:
        raise MissingExtraError(package, "models,bench") from None
    return f"{package}=={version.partition('+')[0]}"  # a local part, as of a build for the CPU, is on no index


def _found(folder: Path) -> list[str]:
    """What a complete environment holds."""
    try:
        found: list[str] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise FledgeError(
            f"pip took longer than {INSTALL_S:g} s", hint="run it again: what it fetched is kept"
        ) from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise FledgeError(said[-1] if said else f"{command[0]} ended with {done.returncode}")
