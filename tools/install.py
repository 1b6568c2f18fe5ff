"""Install fledge from its folder into an environment: `python tools/install.py FOLDER EXTRAS`. Standard library only.

uv, fetched from pip's index and with pip's settings, takes seconds; pip, used if uv is unavailable, takes minutes. On a
machine without an NVIDIA GPU, the CUDA packages, about 3 GB, are not installed.
"""

import ast
import json
import logging
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

log = logging.getLogger("install")

ROOT = Path(__file__).parent.parent
CUDA = "nvidia-"  # prefix of the CUDA packages that torch depends on
ALWAYS_CUDA = "FLEDGE_INSTALL_CUDA"
# Settings of pip and the options of uv that correspond to them.
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}


class InstallError(Exception):
    """The installation needs an action of the user."""


def main(folder: Path, extras: str) -> None:
    """Create the environment if it is missing, and install fledge with `extras` into it."""
    if not (folder / "pyvenv.cfg").exists():
        log.info("[1/4] creating %s", folder)
        venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    settings = pip_settings(pip)
    log.info("[2/4] looking for uv, which installs faster")
    uv = find_uv(folder, pip)
    if uv is None:
        log.info("[2/4] uv is not available; installing with pip, which takes a few minutes")
        install = [*pip, "install"]
        environ = dict(os.environ)
    else:
        install = [uv, "pip", "install", "--python", python, *uv_options(settings)]
        environ = uv_environment(settings)
    install += ["--constraint", str(ROOT / "constraints.txt")]
    if not has_gpu() and not os.environ.get(ALWAYS_CUDA):
        install += without_cuda(install, environ, uv=uv is not None)
    log.info("[3/4] installing fledge with torch, MLflow, transformers and OpenVINO, about 700 MB")
    install += [] if uv is None else ["--quiet"]  # a line for each of 160 packages
    # Without build isolation, the constraints also apply to the build dependencies.
    run([*install, "setuptools"], environ)
    run([*install, "--no-build-isolation", "--editable", f"{ROOT}[{extras}]"], environ)
    log.info("[4/4] fetching SmolLM2-135M-Instruct (93 MB), a small chat model")
    subprocess.run([python, "-m", "fledge.models.smollm2"], check=False)  # prints a hint if it fails


def pip_settings(pip: list[str]) -> dict[str, str]:
    """Return pip's settings for installing, from its files and from environment variables, which take precedence."""
    done = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    found: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        found.setdefault(section, {})[key] = ast.literal_eval(value)
    return {**found.get("global", {}), **found.get("install", {}), **found.get(":env:", {})}


def uv_options(settings: Mapping[str, str]) -> Iterator[str]:
    """Yield uv's options for these settings; like pip, it takes the best version of all indexes."""
    for name, option in OPTIONS.items():
        for value in settings.get(name, "").split():
            yield from (option, value)
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        yield "--no-index"
    yield from ("--index-strategy", "unsafe-best-match")


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the settings for which uv has no option."""
    environ = dict(os.environ)
    if "cert" in settings:
        environ["SSL_CERT_FILE"] = settings["cert"]
    if "default-timeout" in settings:
        environ["UV_HTTP_TIMEOUT"] = settings["default-timeout"]
    return environ


def find_uv(folder: Path, pip: list[str]) -> str | None:
    """Return the installed uv, else install it into the environment; None if that fails."""
    if found := shutil.which("uv"):
        return found
    uv = folder / "bin" / "uv"
    if not uv.exists():
        subprocess.run([*pip, "install", "--quiet", "uv"], capture_output=True, check=False)
    return str(uv) if uv.exists() else None


def has_gpu() -> bool:
    """Return whether the machine has an NVIDIA driver."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def without_cuda(install: list[str], environ: Mapping[str, str], *, uv: bool) -> list[str]:
    """Return the options that install torch without CUDA; none if they are not needed, for instance on a Mac."""
    planned = subprocess.run(
        [*install, "--dry-run", *(() if uv else ("--quiet", "--report", "-")), "torch"],
        env=dict(environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not any(name.startswith(CUDA) for name in planned_packages(planned.stdout, planned.stderr, uv=uv)):
        return []
    if uv:
        return ["--torch-backend", "cpu"]
    raise InstallError(
        "pip would install 3 GB of CUDA packages with torch, but this machine has no NVIDIA GPU.\n"
        "try: install uv, or add PyTorch's index of CPU builds to PIP_EXTRA_INDEX_URL; "
        f"{ALWAYS_CUDA}=1 installs them"
    )


def planned_packages(report: str, lines: str, *, uv: bool) -> list[str]:
    """Return the names of the packages in a dry run's output: uv's lines ` + NAME==VERSION`, or pip's report."""
    if uv:
        return [line.split()[1].partition("==")[0] for line in lines.splitlines() if line.startswith(" + ")]
    return [item["metadata"]["name"] for item in json.loads(report or '{"install": []}')["install"]]


def run(command: list[str], environ: Mapping[str, str]) -> None:
    """Run a command and pass its output through."""
    subprocess.run(command, env=dict(environ), check=True)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except InstallError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error.cmd[0]} failed with exit code {error.returncode}; see its output above")
    except KeyboardInterrupt:
        sys.exit(130)
