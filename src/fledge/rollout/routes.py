"""Routes as plain values: who answers to which name, before and after an alias moves. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

Route = Mapping[str, Any]


def releases_of(routes: Sequence[Route]) -> set[str]:
    """Every release, as `name/3`, that a route leads to."""
    found: set[str] = set()
    for route in routes:
        found |= {arm["release"] for arm in route["arms"]} | set(route["aliases"].values()) | set(route["versions"])
        if route["shadow"]:
            found.add(route["shadow"]["release"])
    return found


def apply_move(routes: Sequence[Route], name: str, alias: str, release: str) -> list[dict[str, Any]]:
    """The same routes where `name@alias` means another release."""
    return [_moved(route, alias, release) if route["name"] == name else dict(route) for route in routes]


def apply_shares(routes: Sequence[Route], name: str, shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """The same routes where the aliases of `name` share its requests so; those that get none are left out."""
    return [
        {
            **route,
            "arms": [
                {"alias": alias, "release": route["aliases"][alias], "weight": weight}
                for alias, weight in shares.items()
                if weight > 0 and alias in route["aliases"]
            ],
        }
        if route["name"] == name
        else dict(route)
        for route in routes
    ]


def _moved(route: Route, alias: str, release: str) -> dict[str, Any]:
    def arm(content: Mapping[str, Any]) -> dict[str, Any]:
        return {**content, "release": release} if content["alias"] == alias else dict(content)

    return {
        **route,
        "arms": [arm(item) for item in route["arms"]],
        "aliases": {**route["aliases"], **({alias: release} if alias in route["aliases"] else {})},
        "shadow": arm(route["shadow"]) if route["shadow"] else None,
    }
