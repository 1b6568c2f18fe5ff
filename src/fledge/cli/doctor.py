"""`fledge doctor`."""

from typing import Any

import click

from fledge.cli.options import command, settings
from fledge.cli.output import emit, json_option, message, table
from fledge.core.settings import load
from fledge.engines.doctor import examine
from fledge.engines.settings import EngineSettings


@command()
@settings(EngineSettings)
@click.option("--model", help="Also estimate the memory that this model needs.")
@json_option
def doctor(model: str | None, as_json: bool, **flags: Any) -> None:
    """Show this machine's hardware, the engines that run here, and how to install the others."""
    found = examine(load(EngineSettings, flags).value, model)
    machine = found["machine"]
    about = [
        [name, _format_value(machine[name])] for name in ("cpu", "threads", "memory_bytes", "gpu", "system", "python")
    ]
    about += [[name, version] for name, version in machine["versions"].items()]
    engines = [[item["name"], item["ready"], item["detail"], item["hint"]] for item in found["engines"]]
    emit(
        as_json,
        found,
        table("machine", ["", "value"], about),
        table("engines", ["engine", "ready", "", "to get it"], engines),
        f"auto: {found['auto']}",
        *([found["memory"]] if found["memory"] else []),
    )
    for problem in found["problems"]:
        message(f"problem: {problem}")


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "none that torch can use"
    return f"{value / 1e9:.1f} GB" if isinstance(value, int) and value > 1e6 else str(value)
