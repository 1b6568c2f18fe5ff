"""Apply alias moves and shares to routes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fledge.core.routes import Route, RouteArm


def releases_of(routes: Sequence[Route]) -> set[str]:
    """Return all releases of the routes as `name/3`."""
    return {release for route in routes for release in route.releases}


def apply_move(routes: Sequence[Route], name: str, alias: str, release: str) -> tuple[Route, ...]:
    """Return the routes with `name@alias` at another release."""
    return tuple(_move(route, alias, release) if route.name == name else route for route in routes)


def apply_shares(routes: Sequence[Route], name: str, shares: Mapping[str, float]) -> tuple[Route, ...]:
    """Return the routes with these shares for the aliases of `name`; aliases without a share are left out."""
    return tuple(_set_shares(route, shares) if route.name == name else route for route in routes)


def _move(route: Route, alias: str, release: str) -> Route:
    def arm(old: RouteArm) -> RouteArm:
        return replace(old, release=release) if old.alias == alias else old

    return replace(
        route,
        arms=tuple(arm(item) for item in route.arms),
        aliases={**route.aliases, **({alias: release} if alias in route.aliases else {})},
        shadow=arm(route.shadow) if route.shadow else None,
    )


def _set_shares(route: Route, shares: Mapping[str, float]) -> Route:
    arms = [
        RouteArm(alias, route.aliases[alias], weight)
        for alias, weight in shares.items()
        if weight > 0 and alias in route.aliases
    ]
    return replace(route, arms=tuple(arms))
