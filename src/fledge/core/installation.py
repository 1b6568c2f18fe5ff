"""Installation commands for hints, from the recorded origin of the installed fledge (PEP 610)."""

import json
from importlib import metadata
from urllib.parse import unquote, urlsplit


def install_command(extras: str) -> str:
    """Return the command that installs fledge with these extras from the same index, folder or wheel."""
    url, editable = _read_origin()
    path = unquote(urlsplit(url).path)
    if not url:
        requirement = f"fledge[{extras}]"
    elif path.endswith(".whl"):
        requirement = f"fledge[{extras}] @ {url}"
    else:
        requirement = f"{path}[{extras}]"
    return f'pip install {"-e " if editable else ""}"{requirement}"'


def wheel_name() -> str:
    """Return the file name of the wheel if fledge was not installed from an index, else an empty text."""
    return f"fledge-{metadata.version('fledge')}-py3-none-any.whl" if _read_origin()[0] else ""


def _read_origin() -> tuple[str, bool]:
    """Return the URL fledge was installed from, empty for an index, and whether the install is editable."""
    try:
        found = json.loads(metadata.distribution("fledge").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return "", False
    return found.get("url", ""), bool(found.get("dir_info", {}).get("editable"))
