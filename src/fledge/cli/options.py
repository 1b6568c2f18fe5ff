"""Command-line flags from settings: each field of a settings dataclass is a flag of the same name."""

import typing
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import click

from fledge.core.settings import Option, options

F = TypeVar("F", bound=Callable[..., Any])
LAST = ("Engine", "Storage")  # rarely needed groups


class SettingOption(click.Option):
    """A flag of a setting; `group` is its section in the help."""

    def __init__(self, *names: Any, group: str, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help shows common options first, then the groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record:
                groups.setdefault(getattr(param, "group", ""), []).append(record)
        last = {name: groups.pop(name) for name in LAST if name in groups}
        for name, records in {**groups, **last}.items():
            with formatter.section(name or "Options"):
                formatter.write_dl(records)

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        if any(isinstance(param, SettingOption) for param in self.params):
            with formatter.section("Settings from elsewhere"):
                formatter.write_text(
                    "Most options are settings: --some-option can also be given as FLEDGE_SOME_OPTION (or the variable "
                    "shown), in .env, or as some_option in fledge.toml. `fledge config show` lists where each comes "
                    "from."
                )


class CommandGroup(click.Group):
    """A group of commands with grouped options."""

    def command(self, name: str | None = None) -> Callable[[Callable[..., Any]], click.Command]:  # type: ignore[override]
        """Declare a command of the group with grouped options."""
        return super().command(name, cls=GroupedCommand)


def command(name: str | None = None) -> Callable[[Callable[..., Any]], GroupedCommand]:
    """Declare a command with grouped options."""
    return click.command(name, cls=GroupedCommand)


def group() -> Callable[[Callable[..., Any]], CommandGroup]:
    """Declare a group of such commands."""
    return click.group(cls=CommandGroup)


def settings(cls: type, *, without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Add a flag for every setting of `cls`; the command receives them as keyword arguments, None if not given."""

    def decorate(function: F) -> F:
        for item in reversed(list(options(cls))):
            if item.is_flag and item.name not in without:
                function = _build_flag(item)(function)
        return function

    return decorate


def _build_flag(item: Option) -> Callable[[F], F]:
    name = item.flag
    shown = ",".join(map(str, item.default)) if item.is_list else item.default
    text = item.help + (f" [default: {shown}]" if shown not in ("", None) else "")
    if item.env != f"FLEDGE_{name[2:].replace('-', '_').upper()}":
        text += f" [env: {item.env}]"
    flag = partial(click.option, cls=SettingOption, group=item.group, default=None, help=text)
    if item.base_type is bool:
        return flag(f"{name}/--no-{name[2:]}", item.name)
    kind = item.base_type if item.base_type in (int, float) else str
    if typing.get_origin(item.base_type) is Literal:
        kind = click.Choice(typing.get_args(item.base_type))
    return flag(name, item.name, type=kind)
