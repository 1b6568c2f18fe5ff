"""Served aliases in MLflow's registry: what they mean now, and its files brought here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from fledge.core.errors import DamagedError, FledgeError, InputError
from fledge.models import kept
from fledge.models._mlflow import fetch, find
from fledge.tracking._mlflow import connect


class AliasWatch:
    """Looks at aliases; `watched` holds `name`, `alias` and the `release` (`name/3`) that is served under it."""

    def __init__(self, tracking_uri: str, releases: Path, watched: Sequence[Mapping[str, str]]) -> None:
        self._tracking_uri = tracking_uri
        self._releases = releases
        self._known = {(item["name"], item["alias"]): item["release"] for item in watched}
        self._tried: dict[tuple[str, str], str] = {}

    def release(self, name: str, alias: str) -> str:
        """What an alias meant at the last look."""
        return self._known[name, alias]

    def look(self) -> Iterator[dict[str, Any]]:
        """Events since the last look: `moved` with the checked folder of the release that is meant now, or `refused`,
        once, where the registry has something else than what was registered.

        Raises `FledgeError` where MLflow cannot be asked.
        """
        try:
            client = connect(self._tracking_uri)
            for (name, alias), before in list(self._known.items()):
                reference = kept.Reference(name, alias, "")
                version = find(client, reference.text)
                release = f"{name}/{version.version}"
                if release in (before, self._tried.get((name, alias))):
                    continue
                self._tried[name, alias] = release
                about = {"name": name, "alias": alias, "release": release}
                try:
                    folder = fetch(client, version, self._releases)
                except (DamagedError, InputError) as error:
                    yield {"event": "refused", **about, "old": before, "error": error.message}
                    continue
                kept.remember(self._releases, self._tracking_uri, reference, folder)
                self._known[name, alias] = release
                yield {"event": "moved", **about, "folder": str(folder.resolve())}
        except MlflowException as error:
            raise FledgeError(f"MLflow does not answer: {str(error).splitlines()[0]}") from None
