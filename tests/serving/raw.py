"""Raw HTTP: requests are sent unchanged, and responses are parsed strictly."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.conftest import PATIENCE_S

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\x20-\x7e]*")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x20-\x7e\x80-\xff]*)")
BODILESS = (204, 304)
JSON = ("Content-Type", "application/json")


class InvalidHttpError(Exception):
    """The response is not valid HTTP."""


class Answer(NamedTuple):
    """One response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Read(NamedTuple):
    """Complete responses, and the bytes of an incomplete one."""

    answers: list[Answer]
    rest: bytes


def read(content: bytes, *, head: bool = False) -> Read:
    """Parse the responses in `content`. With `head` a response may lack its body, as for a HEAD request.

    Raises `InvalidHttpError` if the content is not HTTP.
    """
    answers: list[Answer] = []
    while content:
        found = _answer(content)
        if head and (found is None or not _is_start(found[1])):
            bare = _head(content)
            found = bare if bare and _is_start(bare[1]) else found
        if found is None:
            break
        answer, content = found
        if answer.status >= 200:  # else an interim response
            answers.append(answer)
    return Read(answers, content)


def _is_start(content: bytes) -> bool:
    return content.startswith(b"HTTP/1.1 "[: len(content)])


def _head(content: bytes) -> tuple[Answer, bytes] | None:
    """Return status and headers, and the bytes after them; None if they are incomplete."""
    if not _is_start(content):
        raise InvalidHttpError(content[:200])
    top, blank, rest = content.partition(b"\r\n\r\n")
    if not blank:
        return None
    first, *lines = top.split(b"\r\n")
    status, pairs = STATUS_LINE.fullmatch(first), [HEADER.fullmatch(line) for line in lines]
    if status is None or not all(pairs):
        raise InvalidHttpError(content[:200])
    headers = {pair[1].decode().lower(): pair[2].decode("latin-1") for pair in pairs if pair}
    if len(headers) != len(pairs):
        raise InvalidHttpError(b"duplicate header: " + top)
    return Answer(int(status[1]), headers, b""), rest


def _answer(content: bytes) -> tuple[Answer, bytes] | None:
    found = _head(content)
    if found is None or found[0].status < 200 or found[0].status in BODILESS:
        return found
    answer, rest = found
    if answer.headers.get("transfer-encoding") == "chunked":
        return _chunked(answer, rest)
    if "content-length" not in answer.headers:
        raise InvalidHttpError(b"a body without a length: " + content[:200])
    length = int(answer.headers["content-length"])
    return (answer._replace(body=rest[:length]), rest[length:]) if len(rest) >= length else None


def _chunked(answer: Answer, content: bytes) -> tuple[Answer, bytes] | None:
    parts, at = [], 0
    while True:
        end = content.find(b"\r\n", at)
        if end < 0:
            return None
        size = content[at:end]
        if not re.fullmatch(rb"[0-9a-f]+", size):
            raise InvalidHttpError(b"a chunk of size " + size[:100])
        start, at = end + 2, end + 4 + int(size, 16)
        if len(content) < at:
            return None
        if content[at - 2 : at] != b"\r\n":
            raise InvalidHttpError(b"a chunk without an end")
        parts.append(content[start : at - 2])
        if not parts[-1]:
            return answer._replace(body=b"".join(parts)), content[at:]


@contextlib.contextmanager
def connect(port: int, *, seconds: float = PATIENCE_S, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """Connect to a port of this machine."""
    with socket.socket() as opened:
        if receive_buffer:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        opened.settimeout(seconds)
        opened.connect(("127.0.0.1", port))
        yield opened


def ask(port: int, content: bytes, *, seconds: float = PATIENCE_S) -> Answer | None:
    """Send some bytes and return the first response; None if the connection was closed without one.

    Raises `TimeoutError` if neither happens in time.
    """
    with connect(port, seconds=seconds) as opened:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            opened.sendall(content)
        return read_answer(opened, head=content.startswith(b"HEAD "))


def read_answer(opened: socket.socket, *, head: bool = False) -> Answer | None:
    """Return the next response on a connection; None at its end."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := opened.recv(1 << 16):
            received += part
            if answers := read(received, head=head).answers:
                return answers[0]
    return None


def is_closed(opened: socket.socket, seconds: float = PATIENCE_S) -> bool:
    """Return whether the other side closes a connection in time; anything it still sends is discarded."""
    opened.settimeout(seconds)
    try:
        while opened.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True


def request(method: str, target: str, *headers: tuple[str, str], body: bytes = b"", host: str = "localhost") -> bytes:
    """Return a request built from these parts, which may be invalid."""
    lines = [f"{method} {target} HTTP/1.1", *([f"Host: {host}"] if host else [])]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def post_json(path: str, value: object) -> bytes:
    """Return a request that posts JSON."""
    return request("POST", path, JSON, body=json.dumps(value).encode())


def port_of(url: str) -> int:
    return int(urlsplit(url).port or 0)


class CurrentLoad(NamedTuple):
    """Current load of an endpoint: prompts in the engine, and waiting requests."""

    running: int
    waiting: int


def read_load(port: int) -> CurrentLoad:
    """Read the load over a raw connection: creating a client takes longer than some of the states observed."""
    answer = ask(port, request("GET", "/metrics"))
    if answer is None:
        return CurrentLoad(0, 0)
    text = answer.body.decode()
    counts = [
        re.findall(rf"^fledge_num_requests_{name}{{.*}} (\d+)", text, re.MULTILINE) for name in CurrentLoad._fields
    ]
    return CurrentLoad(*(sum(map(int, found)) for found in counts))
