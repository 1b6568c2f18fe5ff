"""What `fledge doctor` finds: the machine, its engines, and what is wrong."""

from typing import Any

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.engines import machine, selection
from fledge.engines.selection import EXTRAS, EngineSettings

DETAILS = {
    "openvino": "continuous batching on a CPU, exact or int8",
    "transformers": "any architecture: padded batches on a CPU, continuous batching on an NVIDIA GPU",
    "remote": "any OpenAI-compatible URL as --model",
    "scripted": "answers from a function: dry runs and tests",
}


def examine(settings: EngineSettings) -> dict[str, Any]:
    """`machine`, `engines[]` of `name, ready, detail, hint`, `auto` in words, and `problems[]` in words."""
    engines = [
        {
            "name": name,
            "ready": selection.installed(name),
            "detail": detail,
            "hint": "" if selection.installed(name) else f'pip install "fledge[{EXTRAS[name]}]"',
        }
        for name, detail in DETAILS.items()
    ]
    problems: list[str] = []
    auto = "none"
    try:
        choice = selection.choose(settings)
        auto = f"{choice.name} on {choice.device}: {choice.reason}"
    except FledgeError as error:
        problems.append(f"{error.message} ({error.hint})")
    try:
        state.check_writable(settings.state_dir)
    except FledgeError as error:
        problems.append(f"{error.message} ({error.hint})")
    return {"machine": machine.describe(), "engines": engines, "auto": auto, "problems": problems}
