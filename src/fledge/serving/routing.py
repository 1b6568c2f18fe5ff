"""Choice of the release for a request: by name, by stable assignment, or both. Pure functions."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fledge.core.routes import Route, RouteArm


class RoutedRequest(NamedTuple):
    """The release that answers (`name/3`), its alias (empty if a version was requested), and the shadow arm, if any."""

    release: str
    arm: str
    shadow: RouteArm | None


@dataclass(frozen=True)
class Routes:
    """All names that an endpoint serves; the first is the default."""

    routes: tuple[Route, ...]

    def names(self, *, versions: bool = False) -> list[str]:
        """Return the valid values of `model`: names and aliases, and with `versions` also releases."""
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
        """Return the route of a request for `model` (`NAME`, `NAME@alias`, `NAME/version` or empty), or None if it is
        not served. `unit` is the user or session."""
        route = (
            next((route for route in self.routes if route.name == _base_name(model)), None) if model else self.routes[0]
        )
        if route is None:
            return None
        rest = model[len(route.name) :]
        if rest.startswith("@"):
            release = route.aliases.get(rest[1:])
            return RoutedRequest(release, rest[1:], None) if release else None
        if rest:
            return RoutedRequest(model, "", None) if model in route.releases else None
        arm = assign(route.name, unit, route.arms)
        shadowed = route.shadow is not None and hash_unit(f"{route.name}/shadow", unit) < route.shadow_share
        return RoutedRequest(arm.release, arm.alias, route.shadow if shadowed else None)


def _base_name(model: str) -> str:
    return model.partition("@")[0].partition("/")[0]


def hash_unit(salt: str, unit: str) -> float:
    """Return a uniform number in [0, 1) that depends only on the salt and the unit."""
    digest = hashlib.sha256(f"{salt}\0{unit}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def assign(salt: str, unit: str, arms: Sequence[RouteArm]) -> RouteArm:
    """Return the arm of a unit by weighted rendezvous hashing; the order of the arms does not matter.

    Each arm draws an exponential variate with its weight as the rate, and the smallest wins. When the weight of one arm
    grows, units move to it, and none moves between other arms.
    """
    return min(arms, key=lambda arm: -math.log(1 - hash_unit(f"{salt}@{arm.alias}", unit)) / arm.weight)
