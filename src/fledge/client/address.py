"""The address of an endpoint, and errors that name it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from fledge.core.api_key import VARIABLE, api_key, clean_key
from fledge.core.errors import FledgeError, InputError
from fledge.core.keys import VARIABLE as FLEDGE_KEY
from fledge.core.network import LOOPBACK, without_password

MAX_MESSAGE_CHARACTERS = 500
SEE_LOG = "ask again; see the endpoint's log"


class ProtocolError(FledgeError):
    """The server speaks another protocol."""


class KeyRejectedError(InputError):
    """The endpoint rejects the key, or requires one."""


@dataclass(frozen=True)
class Address:
    """The URLs of an endpoint: `base` of OpenAI's protocol, `root` of fledge's routes. `host` is shown to users;
    `model` is the default of calls."""

    root: str
    base: str
    host: str
    model: str
    is_near: bool
    openai: bool

    @classmethod
    def parse(cls, url: str, *, openai: bool = False) -> "Address":
        """Parse `http(s)://HOST[/v1][#MODEL]`. Raises `InputError` for anything else."""
        given, _, model = url.partition("#")
        given = given.rstrip("/")
        try:
            parts = urlsplit(given)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # brackets, or a port that there is not
            valid = False
        if not valid:
            raise InputError(f"invalid URL of an endpoint: {url!r}", hint="for example http://127.0.0.1:5001")
        root = given.removesuffix("/v1")
        base = given if openai and parts.path else f"{root}/v1"
        host = parts.netloc.rpartition("@")[2]
        return cls(root, base, host, model, parts.hostname in LOOPBACK, openai)

    @property
    def key_variable(self) -> str:
        """Return the environment variable of the key."""
        return VARIABLE if self.openai else FLEDGE_KEY

    def authorization(self, key: str | None) -> dict[str, str]:
        """Return the header for `key`, or for the environment's if it is None. Raises `InputError` for an invalid
        key."""
        variable = self.key_variable
        found = api_key(variable) if key is None else clean_key(key, "the key", variable)
        return {"authorization": f"Bearer {found}"} if found else {}

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Translate connection errors to `FledgeError`."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as error:
            start = "fledge status shows what runs here; fledge serve NAME@champion --detach starts an endpoint"
            hint = start if self.is_near else "check the address, and that the server runs"
            raise FledgeError(f"nothing answers at {without_password(self.root)}: {_reason(error)}", hint) from None
        except httpx.HTTPError as error:
            raise self.broken_off(_reason(error)) from None

    def broken_off(self, reason: str = "") -> FledgeError:
        return FledgeError(f"{self.host} broke the answer off{reason and ': '}{reason}", hint=SEE_LOG)

    def refused(self, status: int, told: str, retry_after: int) -> FledgeError:
        """Return the error for a status and the text of its response."""
        if status in (401, 403):
            hint = f"export {self.key_variable}=..."
            return KeyRejectedError(f"{self.host} rejected the API key: {told}", hint)
        if status == 404:
            base = without_password(self.base)
            return FledgeError(f"{self.host}: {told}", hint=f"curl {base}/models; name one as {base}#NAME")
        if status in (429, 503):
            later = f"ask again in {retry_after} s" if retry_after else "ask again in a moment"
            state = "has too much to do" if status == 429 else "is not ready"
            return FledgeError(f"{self.host} {state}: {told}", hint=later)
        if status in (400, 409, 413, 415, 422):
            hint = f"{without_password(self.root)}/docs describes what it takes"
            return InputError(f"{self.host} does not take the request: {told}", hint)
        return FledgeError(f"{self.host} answered {status}: {told}", hint=SEE_LOG)

    def foreign(self, expected: str, text: str) -> ProtocolError:
        """Return the error for content that violates the protocol."""
        hint = f"curl {without_password(self.base)}/models tells whether it speaks the protocol"
        return ProtocolError(f"{self.host} sent what is no {expected}: {one_line(text)[:80]}", hint)


def one_line(text: str) -> str:
    """Return a foreign text as one line for a message."""
    return " ".join(text.split())[:MAX_MESSAGE_CHARACTERS]


def _reason(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
