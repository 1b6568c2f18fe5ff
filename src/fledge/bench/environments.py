"""Virtual environments of peers, each created once."""

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
    """Return the `bin` folder of an environment with torch and `packages`, creating it if needed.

    Packages without a version get fledge's, so that all are measured with the same torch and transformers. Raises
    `FledgeError` with pip's error.
    """
    requirements = [pin_requirement(package) for package in ("torch", *packages)]
    folder = state.ensure(state_dir / "bench" / "envs") / name
    if _read_marker(folder) != requirements:
        say(f"installing {packages[0]} into its own environment, once: about {minutes:g} min")
        state.check_writable(folder.parent, NEED_BYTES)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        install = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        # First torch in its exact version: otherwise pip would choose another build.
        _run([*install, requirements[0]])
        _run([*install, *requirements])
        state.write_json(folder / MARKER, requirements)
    return folder / "bin"


def pin_requirement(package: str) -> str:
    """Return `name==version` with the given or the installed version. Raises `FledgeError` if it has neither."""
    if "==" in package:
        return package
    try:
        version = metadata.version(package.partition("[")[0])
    except metadata.PackageNotFoundError:
        raise MissingExtraError(package, "models,bench") from None
    return f"{package}=={version.partition('+')[0]}"  # indexes have no local versions, such as +cpu


def _read_marker(folder: Path) -> list[str]:
    """Return the requirements of a complete environment, empty if it is incomplete."""
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
            f"pip took longer than {INSTALL_S:g} s", hint="run it again: pip keeps its downloads"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise FledgeError(lines[-1] if lines else f"{command[0]} exited with code {done.returncode}")
