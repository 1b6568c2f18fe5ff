"""Flags made from settings: each field of a settings dataclass is a flag of the same name."""

import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import click

from fledge.core.settings import Option, options

F = TypeVar("F", bound=Callable[..., Any])


def settings(cls: type, *, without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Add a flag for every setting of `cls`; the command gets them as keyword arguments, None where not given."""

    def decorate(function: F) -> F:
        for item in reversed(list(options(cls))):
            if item.is_flag and item.name not in without:
                function = _flag(item)(function)
        return function

    return decorate


def _flag(item: Option) -> Callable[[F], F]:
    name = item.flag
    shown = ",".join(map(str, item.default)) if item.is_list else item.default
    text = item.help + (f" [default: {shown}]" if shown not in ("", None) else "") + f" [env: {item.env}]"
    if item.base_type is bool:
        return click.option(f"{name}/--no-{name[2:]}", item.name, default=None, help=text)
    kind = item.base_type if item.base_type in (int, float) else str
    if typing.get_origin(item.base_type) is Literal:
        kind = click.Choice(typing.get_args(item.base_type))
    return click.option(name, item.name, type=kind, default=None, help=text)
