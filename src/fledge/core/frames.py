"""Framing of the messages between an engine and its client: length, kind, body."""

import struct
from collections.abc import Iterator

ASK, CANCEL, PIECES = 1, 2, 3
MAXIMUM_BYTES = 64 << 20
_HEAD = struct.Struct(">IB")


def frame(kind: int, body: bytes) -> bytes:
    """Return a message as bytes; `kind` is `ASK`, `CANCEL` or `PIECES`."""
    return _HEAD.pack(len(body), kind) + body


class Frames:
    """Decodes messages from chunks of bytes."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield kind and body of each complete message. Raises `ValueError` if one is too large."""
        self._unread += data
        while len(self._unread) >= _HEAD.size:
            length, kind = _HEAD.unpack_from(self._unread)
            if length > MAXIMUM_BYTES:
                raise ValueError(f"a message of {length} bytes is too large")
            end = _HEAD.size + length
            if len(self._unread) < end:
                return
            body = bytes(self._unread[_HEAD.size : end])
            del self._unread[:end]
            yield kind, body
