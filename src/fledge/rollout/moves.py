"""What is served under which names, and what is on its way to be: values that change as aliases move. No input, no
output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fledge.rollout.routes import apply_move, apply_shares, releases_of

Move = Mapping[str, Any]  # `name`, `alias`, `release`, `folder`


@dataclass
class Moves:
    """`routes` as they are now; `folders` of all releases that are served or awaited; `pending` moves, whose engines
    are not ready; `shares` as a canary asked for them last."""

    routes: list[dict[str, Any]]
    folders: dict[str, str]
    pending: list[Move] = field(default_factory=list)
    shares: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, move: Move) -> set[str]:
        """An alias means another release now; what it was to move to before is forgotten. Returns the releases that
        nothing leads to any more and that nobody was told of."""
        known = set(self.folders)
        self.pending = [item for item in self.pending if (item["name"], item["alias"]) != (move["name"], move["alias"])]
        self.pending.append(move)
        self._forget()
        forgotten = known - set(self.folders)
        self.folders = {**self.folders, move["release"]: move["folder"]}
        return forgotten - {move["release"]}

    def finish(self, is_ready: Callable[[str], bool]) -> list[Move]:
        """Take the routes to the releases that are ready by now; returns the moves that are done."""
        done = [item for item in self.pending if is_ready(item["release"])]
        for item in done:
            self.pending.remove(item)
            self.routes = apply_move(self.routes, item["name"], item["alias"], item["release"])
        if done:
            self._apply_shares()
            self._forget()
        return done

    def give_up(self, release: str) -> list[dict[str, Any]]:
        """A release that is on its way cannot be served; returns what was to move to it, with what stays as `old`."""
        given_up = [item for item in self.pending if item["release"] == release]
        self.pending = [item for item in self.pending if item["release"] != release]
        self._forget()
        aliases = {route["name"]: route["aliases"] for route in self.routes}
        return [{**item, "old": aliases[item["name"]][item["alias"]]} for item in given_up]

    def share(self, shares: Mapping[str, Any]) -> bool:
        """Share requests among aliases so, once they mean here what they meant there; until then `baseline` has all.
        Returns whether anything is other than before."""
        before, self.shares = self.routes, shares
        self._apply_shares()
        return self.routes != before

    def described(self, is_ready: Callable[[str], bool]) -> list[dict[str, Any]]:
        """What `state.json` says of the releases that are served or awaited."""
        return [
            {
                "name": release.rpartition("/")[0],
                "version": int(release.rpartition("/")[2]),
                "aliases": self.aliases(release),
                "ready": is_ready(release),
            }
            for release in self.folders
        ]

    def meant(self, name: str, alias: str) -> str:
        """The release that is served under an alias."""
        return str(next(route["aliases"][alias] for route in self.routes if route["name"] == name))

    def is_candidate(self, release: str, canary: Mapping[str, Any] | None) -> bool:
        """Whether nobody has a right to this release's answers: it is on its way, a shadow, or a `canary` that runs."""
        arms = {arm["release"] for route in self.routes for arm in route["arms"]}
        candidate = canary["release"] if canary and canary["status"] == "running" else ""
        return release not in arms or release == candidate

    def aliases(self, release: str) -> list[str]:
        """The aliases that mean a release."""
        return [alias for route in self.routes for alias, what in route["aliases"].items() if what == release]

    def _apply_shares(self) -> None:
        wanted = self.shares
        route = next((route for route in self.routes if wanted and route["name"] == wanted["name"]), None)
        if route is None:
            return
        meant = all(route["aliases"].get(alias) == what for alias, what in wanted["releases"].items())
        self.routes = apply_shares(
            self.routes, wanted["name"], wanted["shares"] if meant else {wanted["baseline"]: 1.0}
        )

    def _forget(self) -> None:
        wanted = releases_of(self.routes) | {item["release"] for item in self.pending}
        self.folders = {release: folder for release, folder in self.folders.items() if release in wanted}
