"""Watch the served aliases in MLflow's registry and fetch their releases."""

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
    """Checks the `watched` aliases for moves."""

    def __init__(self, tracking_uri: str, releases: Path, watched: Sequence[WatchedAlias]) -> None:
        self._tracking_uri = tracking_uri
        self._releases = releases
        self._known = {(item.name, item.alias): item.release for item in watched}
        self._refused: dict[tuple[str, str], str] = {}

    def release(self, name: str, alias: str) -> str:
        """Return the release of an alias as of the last check."""
        return self._known[name, alias]

    def note_refusal(self, name: str, alias: str, old: str, release: str, old_folder: str = "") -> None:
        """Note that `release` cannot be served: `old` is served, also after a restart, until the alias moves again."""
        self._known[name, alias] = old
        self._refused[name, alias] = release
        if old_folder:
            release_cache.remember(
                self._releases, self._tracking_uri, release_cache.ReleaseRef(name, alias, ""), Path(old_folder)
            )

    def look(self) -> Iterator[AliasMoved | ReleaseRefused]:
        """Yield the moves since the last check: `AliasMoved` to a release with verified files, or once `ReleaseRefused`
        for one with damaged or missing files.

        Raises `FledgeError` at the end for aliases that could not be checked.
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
            self.note_refusal(name, alias, before, release)
            return ReleaseRefused(name, alias, release, before, error.message)
        release_cache.remember(self._releases, self._tracking_uri, reference, folder)
        self._known[name, alias] = release
        return AliasMoved(name, alias, release, str(folder.resolve()))
