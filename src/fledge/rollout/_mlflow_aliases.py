"""Served aliases in MLflow's registry: what they mean now, and its files brought here."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fledge.core.endpoint_config import WatchedAlias
from fledge.core.errors import DamagedError, FledgeError, InputError
from fledge.core.events import AliasMoved, ReleaseRefused
from fledge.releases import release_cache
from fledge.releases._mlflow_releases import fetch, find
from fledge.tracking._mlflow_connection import connect


class AliasWatch:
    """Looks at the `watched` aliases."""

    def __init__(self, tracking_uri: str, releases: Path, watched: Sequence[WatchedAlias]) -> None:
        self._tracking_uri = tracking_uri
        self._releases = releases
        self._known = {(item.name, item.alias): item.release for item in watched}
        self._refused: dict[tuple[str, str], str] = {}

    def release(self, name: str, alias: str) -> str:
        """What is served under an alias, as of the last look."""
        return self._known[name, alias]

    def refused(self, name: str, alias: str, old: str, release: str, old_folder: str = "") -> None:
        """It turned out that a release cannot be served: `old` is, until the alias moves again, and is what an endpoint
        starts from."""
        self._known[name, alias] = old
        self._refused[name, alias] = release
        if old_folder:
            release_cache.remember(
                self._releases, self._tracking_uri, release_cache.ReleaseRef(name, alias, ""), Path(old_folder)
            )

    def look(self) -> Iterator[AliasMoved | ReleaseRefused]:
        """What happened since the last look: an alias moved, to a release whose files have been checked, or once to one
        that the registry does not have as it was registered.

        Raises `FledgeError`, at the end, for aliases that could not be looked at.
        """
        last_error = ""
        client = connect(self._tracking_uri)
        for name, alias in list(self._known):
            try:
                event = self._look_at(client, name, alias)
            except (FledgeError, MlflowException, OSError) as error:
                last_error = f"{name}@{alias}: {str(error).partition(chr(10))[0]}"
            else:
                if event:
                    yield event
        if last_error:
            raise FledgeError(last_error)

    def _look_at(self, client: MlflowClient, name: str, alias: str) -> AliasMoved | ReleaseRefused | None:
        reference, before = release_cache.ReleaseRef(name, alias, ""), self._known[name, alias]
        version = find(client, reference.text)
        release = f"{name}/{version.version}"
        if release == before:
            self._refused.pop((name, alias), None)
        if release in (before, self._refused.get((name, alias))):
            return None
        try:
            folder = fetch(client, version, self._releases)
        except (DamagedError, InputError) as error:
            self.refused(name, alias, before, release)
            return ReleaseRefused(name, alias, release, before, error.message)
        release_cache.remember(self._releases, self._tracking_uri, reference, folder)
        self._known[name, alias] = release
        return AliasMoved(name, alias, release, str(folder.resolve()))
