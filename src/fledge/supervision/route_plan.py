"""Which releases an endpoint serves under which names, as a user says it: targets, a split, a shadow."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fledge.core.errors import InputError
from fledge.releases.release_cache import ReleaseRef, parse

SPLIT_HINT = "--split champion=90,challenger=10"
CANARY_HINT = "fledge serve NAME@champion --canary challenger"
SHADOW_HINT = "--shadow challenger=10%"


@dataclass(frozen=True)
class RoutePlan:
    """What is to be found in the registry, and how requests are shared. `split` holds alias and weight."""

    references: tuple[ReleaseRef, ...]
    split: tuple[tuple[str, float], ...]
    shadow: tuple[str, float] | None

    def routes(self, names: Mapping[ReleaseRef, str]) -> list[dict[str, Any]]:
        """Routes for the endpoint, one for each model name, with releases as `name/3`; the first is the default."""
        grouped: dict[str, list[ReleaseRef]] = {}
        for reference in self.references:
            grouped.setdefault(reference.name, []).append(reference)
        return [self._route(name, items, names, first=not place) for place, (name, items) in enumerate(grouped.items())]

    def _route(
        self, name: str, items: Sequence[ReleaseRef], names: Mapping[ReleaseRef, str], *, first: bool
    ) -> dict[str, Any]:
        aliases = {item.alias: names[item] for item in items if item.alias}
        if first and self.split:
            arms = [{"alias": alias, "release": aliases[alias], "weight": weight} for alias, weight in self.split]
        else:
            arms = [{"alias": items[0].alias, "release": names[items[0]], "weight": 1.0}]
        shadow, share = self.shadow if first and self.shadow else (None, 0.0)
        return {
            "name": name,
            "arms": arms,
            "aliases": aliases,
            "versions": [names[item] for item in items if item.version],
            "shadow": {"alias": shadow, "release": aliases[shadow], "weight": 1.0} if shadow else None,
            "shadow_share": share,
        }


def plan_routes(targets: Sequence[str], split: Sequence[str], shadow: str, canary: str = "") -> RoutePlan:
    """Read what a user wants; `canary` is that of the candidate. Raises `InputError` for what cannot be read."""
    references = [parse(target) for target in targets]
    for target, item in zip(targets, references, strict=True):
        if not item.name or (item.version and not re.fullmatch("[1-9][0-9]*", item.version)):
            raise InputError(f"no release {target!r}", hint="NAME@alias, NAME/version or models:/NAME/version")
    shares = tuple(_share(text, SPLIT_HINT) for text in split)
    if len({alias for alias, _ in shares}) != len(shares):
        raise InputError("--split names an alias twice", hint=SPLIT_HINT)
    shadowed = _share(shadow, SHADOW_HINT) if shadow else None
    if shadowed and not 0 < shadowed[1] <= 100:
        raise InputError("a shadow gets more than 0 and at most 100 % of the requests", hint=SHADOW_HINT)
    name = references[0].name
    if canary and split:
        raise InputError("a canary shares the requests itself", hint="leave out --split")
    if canary and references[0].alias in ("", canary):
        raise InputError(f"a canary is tried beside another alias than {canary}", hint=CANARY_HINT)
    extra = [alias for alias, _ in shares] + ([shadowed[0]] if shadowed else []) + ([canary] if canary else [])
    wanted = [*references, *(ReleaseRef(name, alias, "") for alias in extra)]
    return RoutePlan(tuple(dict.fromkeys(wanted)), shares, (shadowed[0], shadowed[1] / 100) if shadowed else None)


def _share(text: str, hint: str) -> tuple[str, float]:
    match = re.fullmatch(r"([^=\s]+)=([0-9]+(?:\.[0-9]+)?)%?", text.strip())
    if match is None or not float(match[2]) > 0:
        raise InputError(f"{text!r} is no alias with its share", hint=hint)
    return match[1], float(match[2])
