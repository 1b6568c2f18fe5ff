"""Routes before and after an alias moves. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fledge.core.routes import Route, RouteArm


def releases_of(routes: Sequence[Route]) -> set[str]:
    """Every release, as `name/3`, that a route leads to."""
    return {release for route in routes for release in route.releases}


def apply_move(routes: Sequence[Route], name: str, alias: str, release: str) -> tuple[Route, ...]:
    """The same routes where `name@alias` means another release."""
    return tuple(_moved(route, alias, release) if route.name == name else route for route in routes)


def apply_shares(routes: Sequence[Route], name: str, shares: Mapping[str, float]) -> tuple[Route, ...]:
    """The same routes where the aliases of `name` share its requests so; those that get none are left out."""
    return tuple(_shared(route, shares) if route.name == name else route for route in routes)


def _moved(route: Route, alias: str, release: str) -> Route:
    def arm(old: RouteArm) -> RouteArm:
        return replace(old, release=release) if old.alias == alias else old

    return replace(
        route,
        arms=tuple(arm(item) for item in route.arms),
        aliases={**route.aliases, **({alias: release} if alias in route.aliases else {})},
        shadow=arm(route.shadow) if route.shadow else None,
    )


def _shared(route: Route, shares: Mapping[str, float]) -> Route:
    arms = [
        RouteArm(alias, route.aliases[alias], weight)
        for alias, weight in shares.items()
        if weight > 0 and alias in route.aliases
    ]
    return replace(route, arms=tuple(arms))
