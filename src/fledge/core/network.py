"""Addresses of this machine."""

import os
import socket
from urllib.parse import urlsplit

from fledge.core.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def family_of(host: str) -> socket.AddressFamily:
    """Of a numerical address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def without_password(uri: str) -> str:
    """An address as it may be shown."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `InputError` where the port cannot be used."""
    try:
        return socket.create_server((host, port), family=family_of(host), backlog=2048)
    except OSError as error:
        raise port_error(host, port, error) from None


def port_error(host: str, port: int, error: OSError, by: str = "") -> InputError:
    """What to tell a user of a port that cannot be used, and `by` whom it is."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    hint = f"choose another with --port {port + 1}"
    return InputError(f"port {port} on {host} cannot be used: {reason}{by}", hint=hint)
