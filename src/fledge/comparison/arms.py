"""What the arms of a comparison were: prompts, models and settings, and in what they differ."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class ArmDescription(NamedTuple):
    """One arm: its prompt as `name/version` with the text as it was asked, and its settings by name."""

    name: str
    prompt: str
    text: str
    settings: Mapping[str, str]


class Settings(NamedTuple):
    """Settings that all arms share, by name, and the names of those in which they differ."""

    shared: Mapping[str, str]
    differing: tuple[str, ...]


def compare_settings(arms: Sequence[ArmDescription]) -> Settings:
    """Tell what is the same in all arms from what is not."""
    names = list(dict.fromkeys(name for arm in arms for name in arm.settings))
    values = {name: [arm.settings.get(name, "") for arm in arms] for name in names}
    shared = {name: found[0] for name, found in values.items() if len(set(found)) == 1}
    return Settings(shared, tuple(name for name in names if name not in shared))
