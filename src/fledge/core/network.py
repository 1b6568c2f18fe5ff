"""Addresses of this machine."""

import socket

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def family_of(host: str) -> socket.AddressFamily:
    """Of a numerical address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
