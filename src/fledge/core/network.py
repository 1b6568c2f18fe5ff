"""Addresses of this machine."""

import socket
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def family_of(host: str) -> socket.AddressFamily:
    """Of a numerical address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def without_password(uri: str) -> str:
    """An address as it may be shown."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri
