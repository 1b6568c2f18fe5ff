"""Which release answers a request: by the name it gives, by a stable assignment, or both. Pure."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fledge.core.routes import Route, RouteArm


class RoutedRequest(NamedTuple):
    """Who answers, as release `name/3` and alias (empty where a version was named), and who answers beside it."""

    release: str
    arm: str
    shadow: RouteArm | None


@dataclass(frozen=True)
class Routes:
    """All names that an endpoint answers to; the first is meant where a request names none."""

    routes: tuple[Route, ...]

    def names(self, *, versions: bool = False) -> list[str]:
        """What `model` may be: names and aliases, with `versions` the releases too."""
        return [
            name
            for route in self.routes
            for name in (
                route.name,
                *(f"{route.name}@{alias}" for alias in route.aliases),
                *(sorted(route.releases) if versions else ()),
            )
        ]

    def find(self, model: str, unit: str) -> RoutedRequest | None:
        """Who answers a request for `model` (`NAME`, `NAME@alias`, `NAME/version`, or nothing) of `unit`, its user or
        session; None for a name that is not served."""
        route = next((route for route in self.routes if route.name == _name(model)), None) if model else self.routes[0]
        if route is None:
            return None
        rest = model[len(route.name) :]
        if rest.startswith("@"):
            release = route.aliases.get(rest[1:])
            return RoutedRequest(release, rest[1:], None) if release else None
        if rest:
            return RoutedRequest(model, "", None) if model in route.releases else None
        arm = assign(route.name, unit, route.arms)
        shadowed = route.shadow is not None and place(f"{route.name}/shadow", unit) < route.shadow_share
        return RoutedRequest(arm.release, arm.alias, route.shadow if shadowed else None)


def _name(model: str) -> str:
    return model.partition("@")[0].partition("/")[0]


def place(salt: str, unit: str) -> float:
    """A number from 0 to below 1 that is always the same for a unit, and unrelated for another salt."""
    digest = hashlib.sha256(f"{salt}\0{unit}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def assign(salt: str, unit: str, arms: Sequence[RouteArm]) -> RouteArm:
    """The arm of a unit, whatever the order of the arms: the one with the smallest of exponential draws, each with the
    arm's weight as its rate (weighted rendezvous hashing). When one arm's weight grows, units move to it, and none
    moves between others."""
    return min(arms, key=lambda arm: -math.log(1 - place(f"{salt}@{arm.alias}", unit)) / arm.weight)
