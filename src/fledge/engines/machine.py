"""Describe the hardware and libraries of this machine."""

import platform
import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

LIBRARIES = ("torch", "transformers", "openvino-genai", "optimum-intel", "mlflow", "huggingface-hub")


def describe() -> dict[str, Any]:
    """Return CPU, cores, memory in bytes, GPU, system, Python and library versions."""
    return {
        "cpu": _read_cpu(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": psutil.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": has_gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := _find_version(name))},
    }


def has_gpu() -> bool:
    """Return whether the machine has an NVIDIA GPU and torch was built with CUDA."""
    torch = find_spec("torch")
    places = torch.submodule_search_locations if torch else None
    cuda = any((Path(place) / "lib" / "libtorch_cuda.so").exists() for place in places or [])
    return cuda and any(Path("/dev").glob("nvidia[0-9]*"))


def _read_cpu() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def _find_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
