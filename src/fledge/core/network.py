"""Sockets and URLs: listen, probe, redact."""

import os
import socket
from urllib.parse import urlsplit

from fledge.core.errors import FledgeError, InputError

CONNECT_S = 5.0
PORTS = {"http": 80, "https": 443}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of a numerical address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def without_password(uri: str) -> str:
    """Return a URL without its password."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def check_answers(url: str) -> None:
    """Raise `FledgeError` if nothing accepts connections at a URL. A URL behind a proxy is not checked."""
    import urllib.request  # takes 0.1 s to load

    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    try:
        socket.create_connection((host, parts.port or PORTS[parts.scheme]), CONNECT_S).close()
    except OSError as error:
        raise FledgeError(
            f"nothing answers at {parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}: {reason(error)}",
            hint="start the server, or correct the URL",
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `InputError` if the port cannot be used."""
    try:
        return socket.create_server((host, port), family=family_of(host), backlog=2048)
    except OSError as error:
        raise port_error(host, port, error) from None


def port_error(host: str, port: int, error: OSError, by: str = "") -> InputError:
    """Return the error for an unusable port; `by` names its user."""
    hint = f"choose another with --port {port + 1}"
    return InputError(f"port {port} on {host} cannot be used: {reason(error)}{by}", hint=hint)


def reason(error: OSError) -> str:
    """Return the message of a system error without its number."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or str(error)
