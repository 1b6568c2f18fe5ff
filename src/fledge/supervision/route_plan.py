"""Parse the targets, split, shadow and canary of an endpoint into routes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fledge.core.errors import InputError
from fledge.core.routes import Route, RouteArm
from fledge.releases.release_cache import ReleaseRef, parse

SPLIT_HINT = "--split champion=90,challenger=10"
CANARY_HINT = "fledge serve NAME@champion --canary challenger"
SHADOW_HINT = "--shadow challenger=10%"


@dataclass(frozen=True)
class RoutePlan:
    """The releases to find in the registry, and how requests are shared. `split` holds alias and weight."""

    references: tuple[ReleaseRef, ...]
    split: tuple[tuple[str, float], ...]
    shadow: tuple[str, float] | None

    def routes(self, names: Mapping[ReleaseRef, str]) -> tuple[Route, ...]:
        """Return one route per model name, with releases as `name/3`; the first is the default."""
        grouped: dict[str, list[ReleaseRef]] = {}
        for reference in self.references:
            grouped.setdefault(reference.name, []).append(reference)
        pairs = enumerate(grouped.items())
        return tuple(self._route(name, items, names, first=not place) for place, (name, items) in pairs)

    def _route(self, name: str, items: Sequence[ReleaseRef], names: Mapping[ReleaseRef, str], *, first: bool) -> Route:
        aliases = {item.alias: names[item] for item in items if item.alias}
        if first and self.split:
            arms = tuple(RouteArm(alias, aliases[alias], weight) for alias, weight in self.split)
        else:
            arms = (RouteArm(items[0].alias, names[items[0]]),)
        shadow, share = self.shadow if first and self.shadow else (None, 0.0)
        return Route(
            name,
            arms,
            aliases,
            shadow=RouteArm(shadow, aliases[shadow]) if shadow else None,
            shadow_share=share,
            versions=tuple(names[item] for item in items if item.version),
        )


def plan_routes(targets: Sequence[str], split: Sequence[str], shadow: str, canary: str = "") -> RoutePlan:
    """Parse targets and flags; `canary` is the candidate's alias. Raises `InputError` for invalid ones."""
    references = [parse(target) for target in targets]
    for target, item in zip(targets, references, strict=True):
        if not item.name or (item.version and not re.fullmatch("[1-9][0-9]*", item.version)):
            raise InputError(f"invalid release {target!r}", hint="NAME@alias, NAME/version or models:/NAME/version")
    shares = tuple(_parse_share(text, SPLIT_HINT) for text in split)
    if len({alias for alias, _ in shares}) != len(shares):
        raise InputError("--split names an alias twice", hint=SPLIT_HINT)
    shadowed = _parse_share(shadow, SHADOW_HINT) if shadow else None
    if shadowed and not 0 < shadowed[1] <= 100:
        raise InputError("the share of --shadow must be above 0 and at most 100 %", hint=SHADOW_HINT)
    name = references[0].name
    if canary and split:
        raise InputError("--canary cannot be combined with --split", hint="leave out --split")
    if canary and references[0].alias in ("", canary):
        raise InputError(f"--canary {canary} needs a target with another alias", hint=CANARY_HINT)
    extra = [alias for alias, _ in shares] + ([shadowed[0]] if shadowed else []) + ([canary] if canary else [])
    all_references = [*references, *(ReleaseRef(name, alias, "") for alias in extra)]
    return RoutePlan(
        tuple(dict.fromkeys(all_references)), shares, (shadowed[0], shadowed[1] / 100) if shadowed else None
    )


def _parse_share(text: str, hint: str) -> tuple[str, float]:
    match = re.fullmatch(r"([^=\s]+)=([0-9]+(?:\.[0-9]+)?)%?", text.strip())
    if match is None or not float(match[2]) > 0:
        raise InputError(f"invalid share {text!r}: expected ALIAS=PERCENT", hint=hint)
    return match[1], float(match[2])
