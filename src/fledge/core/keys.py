"""The named API keys of an endpoint, from the environment and a file that is reloaded."""

import hashlib
import hmac
import logging
import time
from pathlib import Path

from fledge.core.errors import InputError

log = logging.getLogger(__name__)

VARIABLE = "FLEDGE_API_KEY"
OWN_NAME = "default"
MINIMUM_BYTES = 32
RELOAD_S = 1.0
HINT = "write one line per key: NAME KEY, for example: alice $(openssl rand -hex 32)"


class Keys:
    """Checks keys. A changed file takes effect within a second; the keys of a missing or invalid file are rejected.

    `needed` is true if a key is required.
    """

    def __init__(self, own: str, path: Path | None, reload_s: float = RELOAD_S) -> None:
        self._own = [(OWN_NAME, _digest(own.encode("utf-8", "surrogateescape")))] if own else []
        self._path = path
        self._reload_s = reload_s
        self._read_at = time.monotonic()
        self._known = [*self._own, *(read_keys(path).items() if path else ())]
        self._last_error = ""

    @property
    def needed(self) -> bool:
        return bool(self._own) or self._path is not None

    def name_of(self, key: bytes) -> str | None:
        """Return the name of a key, None for an unknown one, in constant time."""
        self._reload()
        given = _digest(key)
        matches = [name for name, known in self._known if hmac.compare_digest(given, known)]
        return matches[0] if matches else None

    def _reload(self) -> None:
        """Reload without comparing file times: two changes can fall into one tick of the file system's clock."""
        if self._path is None or time.monotonic() - self._read_at < self._reload_s:
            return
        self._read_at, last_error = time.monotonic(), ""
        try:
            self._known = [*self._own, *read_keys(self._path).items()]
        except InputError as error:
            self._known, last_error = self._own, error.message
        if last_error and last_error != self._last_error:
            log.warning("%s; the keys of the file are rejected until it is fixed", last_error)
        self._last_error = last_error


def read_keys(path: Path) -> dict[str, bytes]:
    """Return digests of the keys in a file by name. Raises `InputError` for an invalid file or a short key."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the keys in {path} cannot be read: {error}", hint=HINT) from None
    found: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or words[0] in found:
            raise InputError(f"{path}, line {number}: expected a unique name and a key", hint=HINT)
        key = words[1].encode()
        if len(key) < MINIMUM_BYTES:
            raise InputError(f"{path}, line {number}: the key must have at least {MINIMUM_BYTES} bytes", hint=HINT)
        found[words[0]] = _digest(key)
    return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
