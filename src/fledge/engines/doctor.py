"""Diagnosis for `fledge doctor`: the machine, its engines and problems."""

from typing import Any

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.core.installation import install_command
from fledge.core.types import Mode
from fledge.engines import machine, memory, selection
from fledge.engines.selection import EXTRAS
from fledge.engines.settings import EngineSettings

DETAILS = {
    "openvino": "continuous batching on a CPU, exact or int8",
    "llamacpp": "GGUF files as they are, on a CPU",
    "transformers": "any architecture: padded batches on a CPU, continuous batching on an NVIDIA GPU",
    "remote": "any OpenAI-compatible URL as --model",
    "scripted": "answers from a function: dry runs and tests",
}


def examine(settings: EngineSettings, model: str | None = None) -> dict[str, Any]:
    """Return `machine`, `engines[]` with `name, ready, detail, hint`, the choice of `auto`, `problems[]`, and `memory`,
    a sentence on the memory for `model`, empty without one."""
    engines = [
        {
            "name": name,
            "ready": selection.is_installed(name),
            "detail": detail,
            "hint": "" if selection.is_installed(name) else install_command(EXTRAS[name]),
        }
        for name, detail in DETAILS.items()
    ]
    problems: list[str] = []
    auto, needed = "none", ""
    try:
        snapshot = selection.find_snapshot(model, settings) if model else None
        choice = selection.choose(settings, snapshot)
        auto = f"{choice.name} on {choice.device}: {choice.reason}"
        if snapshot is not None and choice.name in memory.BASE_BYTES and choice.device == "cpu":
            mode: Mode = "exact" if settings.mode == "exact" else "fast"
            needed = memory.check(snapshot, choice.name, mode, settings.cache_gb)
    except FledgeError as error:
        problems.append(f"{error.message} ({error.hint})")
    try:
        state.check_writable(settings.state_dir)
    except FledgeError as error:
        problems.append(f"{error.message} ({error.hint})")
    return {
        "machine": machine.describe(),
        "engines": engines,
        "auto": auto,
        "memory": needed,
        "problems": problems,
    }
