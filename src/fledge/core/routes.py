"""Routes from model names to releases."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RouteArm:
    """A release under an alias, with its share of the requests (any positive numbers)."""

    alias: str
    release: str
    weight: float = 1.0


@dataclass(frozen=True)
class Route:
    """One model name. `arms` share the requests for the name alone; requests can also name one of `aliases`, or the
    version of any of these releases or of `versions`.

    `shadow` gets a copy of `shadow_share` (0 to 1) of the requests; its answers are only recorded.
    """

    name: str
    arms: tuple[RouteArm, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    shadow: RouteArm | None = None
    shadow_share: float = 0.0
    versions: tuple[str, ...] = ()

    @property
    def releases(self) -> set[str]:
        extra = {self.shadow.release} if self.shadow else set()
        return {arm.release for arm in self.arms} | set(self.aliases.values()) | set(self.versions) | extra
