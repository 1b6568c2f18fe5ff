"""How fledge was installed here, so that hints name what can be typed here. Source of the fields: PEP 610."""

import json
from importlib import metadata
from urllib.parse import unquote, urlsplit


def install_command(extras: str) -> str:
    """What installs fledge with these extras: from where this one came, an index or a folder or a wheel."""
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
    """The wheel to bring along where fledge came from no index; empty where it did."""
    return f"fledge-{metadata.version('fledge')}-py3-none-any.whl" if _origin()[0] else ""


def _origin() -> tuple[str, bool]:
    """The URL of what was installed and whether it is used where it lies; empty for what came from an index."""
    try:
        found = json.loads(metadata.distribution("fledge").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return "", False
    return found.get("url", ""), bool(found.get("dir_info", {}).get("editable"))
