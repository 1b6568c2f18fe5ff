"""How fledge was installed, so that hints can name a command that works. Source of the fields: PEP 610."""

import json
from importlib import metadata
from urllib.parse import unquote, urlsplit


def install_command(extras: str) -> str:
    """Return the command that installs fledge with these extras from its source: index, folder or wheel."""
    url, editable = _origin()
    path = unquote(urlsplit(url).path)
    if not url:
        wanted = f"fledge[{extras}]"
    elif path.endswith(".whl"):
        wanted = f"fledge[{extras}] @ {url}"
    else:
        wanted = f"{path}[{extras}]"
    return f'pip install {"-e " if editable else ""}"{wanted}"'


def wheel_name() -> str:
    """Return the wheel to copy if fledge was not installed from an index, else empty."""
    return f"fledge-{metadata.version('fledge')}-py3-none-any.whl" if _origin()[0] else ""


def _origin() -> tuple[str, bool]:
    """Return the URL of the installed source, empty for an index, and whether it is editable."""
    try:
        found = json.loads(metadata.distribution("fledge").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return "", False
    return found.get("url", ""), bool(found.get("dir_info", {}).get("editable"))
