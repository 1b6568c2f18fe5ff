"""The URLs of an endpoint and the errors that name it."""

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
SEE_LOG = "retry; see the endpoint's log"


class ProtocolError(FledgeError):
    """The server uses another protocol."""


class KeyRejectedError(InputError):
    """The endpoint rejects the key or requires one."""


@dataclass(frozen=True)
class Address:
    """The URLs of an endpoint: `base` of OpenAI's protocol, `root` of fledge's own routes.

    `host` is for messages; `model` is the default of calls.
    """

    root: str
    base: str
    host: str
    model: str
    is_local: bool
    openai: bool

    @classmethod
    def parse(cls, url: str, *, openai: bool = False) -> "Address":
        """Parse `http(s)://HOST[/v1][#MODEL]`. Raises `InputError` for anything else."""
        base, _, model = url.partition("#")
        base = base.rstrip("/")
        try:
            parts = urlsplit(base)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # invalid brackets or port
            valid = False
        if not valid:
            raise InputError(f"invalid endpoint URL: {url!r}", hint="for example http://127.0.0.1:5001")
        root = base.removesuffix("/v1")
        base = base if openai and parts.path else f"{root}/v1"
        host = parts.netloc.rpartition("@")[2]
        return cls(root, base, host, model, parts.hostname in LOOPBACK, openai)

    @property
    def key_variable(self) -> str:
        """Return the environment variable of the key."""
        return VARIABLE if self.openai else FLEDGE_KEY

    def authorization(self, key: str | None) -> dict[str, str]:
        """Return the header for `key`, by default from the environment. Raises `InputError` for an invalid key."""
        variable = self.key_variable
        value = api_key(variable) if key is None else clean_key(key, "the key", variable)
        return {"authorization": f"Bearer {value}"} if value else {}

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise `FledgeError` for errors of httpx."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as error:
            start = "fledge status shows what runs here; fledge serve NAME@champion --detach starts an endpoint"
            hint = start if self.is_local else "check the URL, and that the server is running"
            raise FledgeError(f"nothing answers at {without_password(self.root)}: {_reason(error)}", hint) from None
        except httpx.HTTPError as error:
            raise self.incomplete_error(_reason(error)) from None

    def incomplete_error(self, reason: str = "") -> FledgeError:
        return FledgeError(f"{self.host} sent an incomplete answer{reason and ': '}{reason}", hint=SEE_LOG)

    def status_error(self, status: int, message: str, retry_after: int) -> FledgeError:
        """Return the error for an HTTP status and the message in the response."""
        if status in (401, 403):
            hint = f"export {self.key_variable}=..."
            return KeyRejectedError(f"{self.host} rejected the API key: {message}", hint)
        if status == 404:
            base = without_password(self.base)
            return FledgeError(f"{self.host}: {message}", hint=f"curl {base}/models; name one as {base}#NAME")
        if status in (429, 503):
            hint = f"retry in {retry_after} s" if retry_after else "retry in a moment"
            state = "is overloaded" if status == 429 else "is not ready"
            return FledgeError(f"{self.host} {state}: {message}", hint)
        if status in (400, 409, 413, 415, 422):
            hint = f"{without_password(self.root)}/docs describes valid requests"
            return InputError(f"{self.host} refused the request: {message}", hint)
        return FledgeError(f"{self.host} answered {status}: {message}", hint=SEE_LOG)

    def protocol_error(self, expected: str, text: str) -> ProtocolError:
        """Return the error for content that is not as the protocol requires."""
        hint = f"curl {without_password(self.base)}/models shows whether it uses OpenAI's protocol"
        return ProtocolError(f"{self.host} sent no valid {expected}: {shorten(text)[:80]}", hint)


def shorten(text: str) -> str:
    """Return a text of the server on one line, shortened for a message."""
    return " ".join(text.split())[:MAX_MESSAGE_CHARACTERS]


def _reason(error: Exception) -> str:
    return shorten(str(error)) or type(error).__name__
