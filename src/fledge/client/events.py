"""Server-sent events: the data of each, out of bytes cut anywhere."""

from collections.abc import Iterable, Iterator

from fledge.core.errors import FledgeError

MAX_EVENT_BYTES = 10_000_000


def data_of(parts: Iterable[bytes]) -> Iterator[str]:
    """The data of each event. Raises `FledgeError` for an event without end, or what is not UTF-8."""
    lines: list[str] = []
    size = 0
    for line in _lines(parts):
        if not line:
            if lines:
                yield "\n".join(lines)
            lines, size = [], 0
        elif line.startswith(b"data:"):
            size += len(line)
            if size > MAX_EVENT_BYTES:
                raise FledgeError(f"an event of the answer is larger than {MAX_EVENT_BYTES} bytes")
            lines.append(_decoded(line.removeprefix(b"data:").removeprefix(b" ")))
    # What is there without the empty line that ends an event was broken off: it is dropped, as the standard wants.


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Lines end in LF or CRLF only: what Unicode also calls a line's end may stand inside of JSON."""
    rest = b""
    for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise FledgeError(f"a line of the answer is longer than {MAX_EVENT_BYTES} bytes")
        for line in whole:
            yield line.removesuffix(b"\r")


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise FledgeError("the answer is not UTF-8") from None
