"""The keys of an endpoint: several, with names, from the environment and a file that may change while it runs."""

import hashlib
import hmac
import time
from pathlib import Path

from fledge.core.errors import InputError

VARIABLE = "FLEDGE_API_KEY"
MINIMUM_BYTES = 32
RELOAD_S = 1.0
HINT = "a line for each key: NAME KEY, as in: alice $(openssl rand -hex 32)"


class Keys:
    """`name_of` says whose a key is. A file that changes counts within a second; one that is gone or broken opens
    nothing. `needed` says whether there is anything to check."""

    def __init__(self, own: str, path: Path | None) -> None:
        self._own = {"default": _digest(own)} if own else {}
        self._path = path
        self._known = self._own | (read_keys(path) if path else {})
        self._stamp = self._look()
        self._looked = time.monotonic()

    @property
    def needed(self) -> bool:
        return bool(self._own) or self._path is not None

    def name_of(self, key: str) -> str | None:
        """The name of a key, None for one that is not known. Takes as long for a wrong key as for a right one."""
        self._reload()
        given = _digest(key)
        matches = [name for name, known in self._known.items() if hmac.compare_digest(given, known)]
        return matches[0] if matches else None

    def _reload(self) -> None:
        if self._path is None or time.monotonic() - self._looked < RELOAD_S:
            return
        self._looked, stamp = time.monotonic(), self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._known = self._own | read_keys(self._path)
            except InputError:
                self._known = self._own

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def read_keys(path: Path) -> dict[str, bytes]:
    """Names and digests of the keys in a file. Raises `InputError` for a file that is none, or a key that is short."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the keys in {path} cannot be read: {error}", hint=HINT) from None
    found: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or words[0] in found:
            raise InputError(f"{path}, line {number}: not a name of its own and a key", hint=HINT)
        if len(words[1].encode()) < MINIMUM_BYTES:
            raise InputError(f"{path}, line {number}: a key has at least {MINIMUM_BYTES} bytes", hint=HINT)
        found[words[0]] = _digest(words[1])
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
