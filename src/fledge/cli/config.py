"""`fledge config`."""

from difflib import get_close_matches
from pathlib import Path

import click

from fledge.chat.session import ChatConfig
from fledge.cli.options import group
from fledge.cli.output import emit, json_option, message, table
from fledge.core.settings import flat, load, options, unknown_keys
from fledge.experiments.config import ExperimentConfig
from fledge.questions.versions import QuestionsConfig
from fledge.registry.release import ReleaseConfig
from fledge.scoring.judge import JudgeConfig
from fledge.supervision.config import ServeConfig

SHOWN = (ExperimentConfig, ReleaseConfig, ServeConfig, ChatConfig)


def say_unknown_keys() -> None:
    """Warn about each key of a settings file and each FLEDGE_... variable that no command knows."""
    if not unknown_keys(*SHOWN, JudgeConfig, QuestionsConfig):
        return

    from fledge.bench.engines import BenchConfig
    from fledge.bench.experiments import ExperimentBenchConfig
    from fledge.bench.serving import ServeBenchConfig

    known = (*SHOWN, JudgeConfig, QuestionsConfig, BenchConfig, ExperimentBenchConfig, ServeBenchConfig)
    names = [name for cls in known for item in options(cls) for name in (item.name, item.env)]
    for place, key in unknown_keys(*known):
        near = get_close_matches(key, names, 1)
        message(f"{place}: unknown setting {key!r} is ignored" + (f"; did you mean {near[0]!r}?" if near else ""))


@group()
def config() -> None:
    """Settings: flags, environment, .env, fledge.toml, user file, defaults."""


@config.command()
@click.option("--origin", is_flag=True, help="Show the source of each value.")
@json_option
def show(origin: bool, as_json: bool) -> None:
    """Show the settings that commands use in this folder."""
    rows: dict[str, dict[str, object]] = {}
    for cls in SHOWN:
        resolved = load(cls)
        values = dict(flat(resolved.value))
        for item in options(cls):
            rows[item.name] = {
                "name": item.name,
                "value": values[item.name],
                "origin": resolved.origins[item.name],
                "env": item.env,
            }
    columns = ["name", "value", "origin", "env"] if origin else ["name", "value"]
    shown = [[row[column] if column != "value" else str(row[column]) for column in columns] for row in rows.values()]
    emit(as_json, list(rows.values()), table(str(Path.cwd()), columns, shown))
