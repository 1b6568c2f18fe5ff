"""Current routes of an endpoint and pending alias moves. No input or output."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fledge.core.endpoint_config import WatchedAlias
from fledge.core.endpoint_state import CanaryProgress, ReleaseState
from fledge.core.events import AliasMoved, ReleaseRefused, SharesChanged
from fledge.core.routes import Route
from fledge.rollout.routes import apply_move, apply_shares, releases_of


@dataclass
class Moves:
    """Current `routes`; `folders` of all served and awaited releases; `pending` moves, whose engines are not ready;
    the last `shares` of a canary."""

    routes: tuple[Route, ...]
    folders: Mapping[str, str]
    pending: list[AliasMoved] = field(default_factory=list)
    shares: SharesChanged | None = None

    def begin(self, move: AliasMoved) -> set[str]:
        """Add a pending move, which replaces an earlier one of the alias. Returns the releases that are no longer
        needed and were never served."""
        known = set(self.folders)
        self.pending = [item for item in self.pending if (item.name, item.alias) != (move.name, move.alias)]
        self.pending.append(move)
        self._drop_unused()
        forgotten = known - set(self.folders)
        self.folders = {**self.folders, move.release: move.folder}
        return forgotten - {move.release}

    def finish(self, is_ready: Callable[[str], bool]) -> list[AliasMoved]:
        """Apply the pending moves whose releases are ready and return them."""
        done = [item for item in self.pending if is_ready(item.release)]
        for item in done:
            self.pending.remove(item)
            self.routes = apply_move(self.routes, item.name, item.alias, item.release)
        if done:
            self._apply_shares()
            self._drop_unused()
        return done

    def give_up(self, release: str, error: str) -> list[ReleaseRefused]:
        """Drop the pending moves to a release that cannot be served, because of `error`; return them as refusals."""
        given_up = [item for item in self.pending if item.release == release]
        self.pending = [item for item in self.pending if item.release != release]
        self._drop_unused()
        return [self._make_refusal(item, error) for item in given_up]

    def share(self, shares: SharesChanged) -> bool:
        """Set the shares of aliases. Until the aliases have the releases in `shares`, `baseline` gets all requests.
        Returns whether the routes changed."""
        before, self.shares = self.routes, shares
        self._apply_shares()
        return self.routes != before

    def release_states(self, is_ready: Callable[[str], bool]) -> tuple[ReleaseState, ...]:
        """Return the states of served and awaited releases."""
        return tuple(
            ReleaseState(
                name=release.rpartition("/")[0],
                version=int(release.rpartition("/")[2]),
                aliases=self.aliases(release),
                ready=is_ready(release),
            )
            for release in self.folders
        )

    def update_watched(self, aliases: Sequence[WatchedAlias]) -> tuple[WatchedAlias, ...]:
        """Return the aliases with their current releases."""
        return tuple(replace(item, release=self.current_release(item.name, item.alias)) for item in aliases)

    def current_release(self, name: str, alias: str) -> str:
        """Return the current release of an alias."""
        return next(route.aliases[alias] for route in self.routes if route.name == name)

    def is_candidate(self, release: str, canary: CanaryProgress | None) -> bool:
        """Return whether a release is a candidate: pending, a shadow, or in a running `canary`."""
        arms = {arm.release for route in self.routes for arm in route.arms}
        candidate = canary.release if canary and canary.status == "running" else ""
        return release not in arms or release == candidate

    def aliases(self, release: str) -> tuple[str, ...]:
        """Return the aliases of a release."""
        return tuple(alias for route in self.routes for alias, what in route.aliases.items() if what == release)

    def _make_refusal(self, move: AliasMoved, error: str) -> ReleaseRefused:
        old = self.current_release(move.name, move.alias)
        return ReleaseRefused(move.name, move.alias, move.release, old, error, self.folders.get(old, ""))

    def _apply_shares(self) -> None:
        wanted = self.shares
        route = next((route for route in self.routes if wanted and route.name == wanted.name), None)
        if wanted is None or route is None:
            return
        meant = all(route.aliases.get(alias) == what for alias, what in wanted.releases.items())
        self.routes = apply_shares(self.routes, wanted.name, wanted.shares if meant else {wanted.baseline: 1.0})

    def _drop_unused(self) -> None:
        wanted = releases_of(self.routes) | {item.release for item in self.pending}
        self.folders = {release: folder for release, folder in self.folders.items() if release in wanted}
