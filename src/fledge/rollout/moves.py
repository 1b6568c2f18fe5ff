"""What is served under which names, and what is on its way to be: values that change as aliases move. No input, no
output."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fledge.core.endpoint_config import WatchedAlias
from fledge.core.endpoint_state import CanaryProgress, ReleaseState
from fledge.core.events import AliasMoved, ReleaseRefused, SharesChanged
from fledge.core.routes import Route
from fledge.rollout.routes import apply_move, apply_shares, releases_of


@dataclass
class Moves:
    """`routes` as they are now; `folders` of all releases that are served or awaited; `pending` moves, whose engines
    are not ready; `shares` as a canary asked for them last."""

    routes: tuple[Route, ...]
    folders: Mapping[str, str]
    pending: list[AliasMoved] = field(default_factory=list)
    shares: SharesChanged | None = None

    def begin(self, move: AliasMoved) -> set[str]:
        """An alias means another release now; what it was to move to before is forgotten. Returns the releases that
        nothing leads to any more and that nobody was told of."""
        known = set(self.folders)
        self.pending = [item for item in self.pending if (item.name, item.alias) != (move.name, move.alias)]
        self.pending.append(move)
        self._forget()
        forgotten = known - set(self.folders)
        self.folders = {**self.folders, move.release: move.folder}
        return forgotten - {move.release}

    def finish(self, is_ready: Callable[[str], bool]) -> list[AliasMoved]:
        """Take the routes to the releases that are ready by now; returns the moves that are done."""
        done = [item for item in self.pending if is_ready(item.release)]
        for item in done:
            self.pending.remove(item)
            self.routes = apply_move(self.routes, item.name, item.alias, item.release)
        if done:
            self._apply_shares()
            self._forget()
        return done

    def give_up(self, release: str, error: str) -> list[ReleaseRefused]:
        """A release that is on its way cannot be served, because of `error`; returns what was to move to it, and what
        stays instead."""
        given_up = [item for item in self.pending if item.release == release]
        self.pending = [item for item in self.pending if item.release != release]
        self._forget()
        return [self._refused(item, error) for item in given_up]

    def share(self, shares: SharesChanged) -> bool:
        """Share requests among aliases so, once they mean here what they meant there; until then `baseline` has all.
        Returns whether anything is other than before."""
        before, self.shares = self.routes, shares
        self._apply_shares()
        return self.routes != before

    def release_states(self, is_ready: Callable[[str], bool]) -> tuple[ReleaseState, ...]:
        """The releases that are served or awaited."""
        return tuple(
            ReleaseState(
                name=release.rpartition("/")[0],
                version=int(release.rpartition("/")[2]),
                aliases=self.aliases(release),
                ready=is_ready(release),
            )
            for release in self.folders
        )

    def watched(self, aliases: Sequence[WatchedAlias]) -> tuple[WatchedAlias, ...]:
        """Aliases with the releases that are served under them now."""
        return tuple(replace(item, release=self.meant(item.name, item.alias)) for item in aliases)

    def meant(self, name: str, alias: str) -> str:
        """The release that is served under an alias."""
        return next(route.aliases[alias] for route in self.routes if route.name == name)

    def is_candidate(self, release: str, canary: CanaryProgress | None) -> bool:
        """Whether nobody has a right to this release's answers: it is on its way, a shadow, or a `canary` that runs."""
        arms = {arm.release for route in self.routes for arm in route.arms}
        candidate = canary.release if canary and canary.status == "running" else ""
        return release not in arms or release == candidate

    def aliases(self, release: str) -> tuple[str, ...]:
        """The aliases that mean a release."""
        return tuple(alias for route in self.routes for alias, what in route.aliases.items() if what == release)

    def _refused(self, move: AliasMoved, error: str) -> ReleaseRefused:
        old = self.meant(move.name, move.alias)
        return ReleaseRefused(move.name, move.alias, move.release, old, error, self.folders.get(old, ""))

    def _apply_shares(self) -> None:
        wanted = self.shares
        route = next((route for route in self.routes if wanted and route.name == wanted.name), None)
        if wanted is None or route is None:
            return
        meant = all(route.aliases.get(alias) == what for alias, what in wanted.releases.items())
        self.routes = apply_shares(self.routes, wanted.name, wanted.shares if meant else {wanted.baseline: 1.0})

    def _forget(self) -> None:
        wanted = releases_of(self.routes) | {item.release for item in self.pending}
        self.folders = {release: folder for release, folder in self.folders.items() if release in wanted}
