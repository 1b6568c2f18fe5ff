"""Served aliases in MLflow's registry: what they mean now, and its files brought here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from fledge.core.errors import FledgeError
from fledge.models import kept
from fledge.models._mlflow import fetch, find
from fledge.tracking._mlflow import connect


class AliasWatch:
    """Looks at aliases; `watched` holds `name`, `alias` and the `release` (`name/3`) that is served under it."""

    def __init__(self, tracking_uri: str, releases: Path, watched: Sequence[Mapping[str, str]]) -> None:
        self._tracking_uri = tracking_uri
        self._releases = releases
        self._known = {(item["name"], item["alias"]): item["release"] for item in watched}

    def look(self) -> Iterator[dict[str, Any]]:
        """Moves since the last look, each with the checked folder of the release that is meant now.

        Raises `FledgeError` where MLflow cannot be asked, or has something else than what was registered.
        """
        try:
            client = connect(self._tracking_uri)
            for (name, alias), before in list(self._known.items()):
                reference = kept.Reference(name, alias, "")
                version = find(client, reference.text)
                release = f"{name}/{version.version}"
                if release == before:
                    continue
                folder = fetch(client, version, self._releases)
                kept.remember(self._releases, self._tracking_uri, reference, folder)
                self._known[name, alias] = release
                yield {"name": name, "alias": alias, "release": release, "folder": str(folder.resolve())}
        except MlflowException as error:
            raise FledgeError(f"MLflow does not answer: {str(error).splitlines()[0]}") from None
