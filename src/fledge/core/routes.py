"""Routes: which releases answer to a model name."""

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
    """One model name: `arms` share what asks for the name alone; `aliases` can be asked for by name, and the releases
    of all of these and of `versions` by version.

    `shadow` also gets `shadow_share` (0 to 1) of the requests, and nobody sees its answers.
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
