"""Descriptions of the arms of a comparison, and the settings in which they differ."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class ArmDescription(NamedTuple):
    """One arm: its prompt as `name/version`, the text sent to the model, and its settings by name."""

    name: str
    prompt: str
    text: str
    settings: Mapping[str, str]


class Settings(NamedTuple):
    """Settings that all arms share, and the names of those that differ."""

    shared: Mapping[str, str]
    differing: tuple[str, ...]


def compare_settings(arms: Sequence[ArmDescription]) -> Settings:
    """Split settings into those that all arms share and those that differ."""
    names = list(dict.fromkeys(name for arm in arms for name in arm.settings))
    values = {name: [arm.settings.get(name, "") for arm in arms] for name in names}
    shared = {name: of_arms[0] for name, of_arms in values.items() if len(set(of_arms)) == 1}
    return Settings(shared, tuple(name for name in names if name not in shared))
