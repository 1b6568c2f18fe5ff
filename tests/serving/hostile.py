"""Malformed requests by kind, and valid requests damaged at random; deterministic for a seed."""

import json
import random
from collections.abc import Callable, Iterator, Sequence

from tests.serving.raw import request

JSON = ("Content-Type", "application/json")
MESSAGES = [{"role": "user", "content": "hello there"}]
METHODS = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "FOO", "M-SEARCH",
    "PROPFIND", "SOURCE", "DESCRIBE", "", "G\0T", "GET ", "G" * 5000, "PÖST",
]  # fmt: skip
TARGETS = [
    "/health", "/ready", "/v1/models", "/metrics", "/docs", "/openapi.json", "/v1/chat/completions", "/invocations",
    "*", "", "health", "//health", "/health/", "/../health", "/%2e%2e/etc/passwd", "/static-offline-docs/../app.py",
    "/static-offline-docs/%2e%2e%2f%2e%2e%2fapp.py", "/static-offline-docs/%00", "/static-offline-docs//etc/passwd",
    "/%", "/%0", "/%zz", "/%00", "/%ff%fe", "/%c0%af", "/ä", "/\0", "/a b", "/\t", "/?", "/?a=%", "/#f", "/\\",
    "/" * 3000, "/" + "a" * 70_000, "http://localhost/health", "http://evil.example/health",
    "https://localhost:99999/x", "http://", "http://[::1", "http://[::1]/health", "file:///etc/passwd",
    "javascript:alert(1)", "localhost:80", "//evil.example/x", "/v1/models?" + "a=b&" * 5000, "/health;x=y",
    "/health%20", "/health\r\nX: y",
]  # fmt: skip
VERSIONS = [
    "HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/1.", "HTTP/11.1",
    "http/1.1", "HTTP/1.1 ", "HTTPS/1.1", "ICY", "RTSP/1.0", "", "HTTP/-1.1", "HTTP/1.1\0",
]  # fmt: skip
HEADERS = [
    "X", "X:", ":", ": y", " X: y", "X : y", "X\t: y", "X: y\r\n z", "X: \0", "X: \x01", "X: \x7f", "X: ä", "Ä: x",
    "X\0: y", "X: " + "y" * 60_000, "Y" * 60_000 + ": y", "Host: localhost", "Host: evil.example",
    "Host: localhost, localhost", "Content-Length: 5", "Content-Length: 0", "Content-Length: -1", "Content-Length: +5",
    "Content-Length: 5, 5", "Content-Length: 0x5", "Content-Length: 5 5", "Content-Length: " + "9" * 30,
    "Content-Length: 18446744073709551616", "Content-Length: ", "Content-Length: five", "Content-Length: \u0665",
    "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity", "Transfer-Encoding:\x0bchunked", "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked", "transfer-encoding: CHUNKED", "Connection: close", "Connection: keep-alive, close",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", "Connection: \0",
    "Expect: 100-continue", "Expect: nothing", "Content-Encoding: gzip", "Content-Encoding: br",
    "Accept-Encoding: gzip;q=nan", "Range: bytes=0-", "Range: bytes=-1", "Range: bytes=5-1,9-",
    "If-Modified-Since: yesterday", "If-None-Match: *", "Trailer: Host", "TE: trailers", "Authorization: Bearer",
    "Authorization: Basic Og==", "Authorization: " + "x" * 9000, "Origin: null", "Origin: http://evil.example",
    "Cookie: a=b; " * 300, "X-Forwarded-For: 127.0.0.1", "X-HTTP-Method-Override: DELETE",
    "Content-Type: application/json; charset=utf-7", "Content-Type: text/csv", "Content-Type: \xff",
    "Content-Type: application/vnd.apache.parquet", "Content-Type: multipart/form-data; boundary=" + "x" * 500,
    "x-session-id: \xff\xfe", "x-session-id: " + "s" * 30_000, "x-request-id: \x80",
]  # fmt: skip
CHUNKS = [
    "5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n", "5\r\nhell", "5\nhello\n0\n\n", "5 \r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n", "fffffffffffffffff\r\nhello\r\n", "5;a=b\r\nhello\r\n0\r\n\r\n",
    "5;" + "a" * 20_000 + "\r\nhello\r\n0\r\n\r\n", "\r\n\r\n", "g\r\n\r\n", "5\r\nhelloXX0\r\n\r\n",
    "00000000000000000005\r\nhello\r\n0\r\n\r\n", "0\r\nHost: evil.example\r\n\r\n",
    "0\r\nContent-Length: 100\r\n\r\n", "0\r\nAuthorization: Bearer x\r\nX: " + "y" * 5000 + "\r\n\r\n",
    "0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "1\r\n{\r\n" + "1\r\n \r\n" * 2000 + "1\r\n}\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n" + "A: b\r\n" * 500 + "\r\n",
]  # fmt: skip
JUNK = [
    b"\0" * 100, b"\xff" * 1000, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"a" * 300, b"\r\n" * 50, b"\n", b" ",
    b"\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"SSH-2.0-x\r\n", b"\x05\x01\0",
    b"*1\r\n$4\r\nPING\r\n", b"\x80\x80\x01", b"HTTP/1.1 200 OK\r\n\r\n", b"GET", b"GET /", b"GET / HTTP/1.1",
    b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: local", b"POST /invocations HTTP/1.1\nHost: localhost\n\n",
    b"GET /health HTTP/1.1\r\rHost: localhost\r\r\r",
]  # fmt: skip
VALUES = [
    "0", "-1", "1e999", "1e-999", "NaN", "Infinity", "-0.0", "9" * 400, '""', '"\\u0000"', '"\\ud800"',
    '"\\ud83d\\ude00"', "null", "true", "[]", "{}", "[[]]", '{"a":{"a":{}}}', "[" * 3000, '"' + "x" * 5000 + '"',
    "2147483648", "18446744073709551616", "0.1", '[0,"a"]', '{"":""}', '"\x80"', "01", "1.", "'a'", "// c\n1",
]  # fmt: skip


def valid_requests() -> list[bytes]:
    """Return valid requests, one for each kind of response."""
    chat = {"messages": MESSAGES, "max_tokens": 8}
    bodies: list[tuple[str, object]] = [
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True, "n": 2, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", {**chat, "logprobs": True, "stop": ["x", "y"], "user": "me", "temperature": 0.5}),
        ("/v1/completions", {"prompt": ["one two", "three"], "echo": True, "stream": True, "seed": 1}),
        ("/v1/completions", {"prompt": [1, 2, 3], "top_k": 5, "top_p": 0.5}),
        ("/invocations", {"dataframe_split": {"columns": ["question"], "data": [["one"], ["two"]]}}),
        ("/invocations", {"inputs": {"question": ["one"]}, "params": {"max_tokens": 4}}),
        ("/invocations", {"messages": MESSAGES}),
        ("/feedback", {"request_id": "0" * 32, "value": 0.5, "comment": "good"}),
    ]
    found = [request("POST", path, JSON, body=json.dumps(body).encode()) for path, body in bodies]
    found.append(request("POST", "/invocations", ("Content-Type", "text/csv"), body=b'question\n"one, two"\n'))
    chunked = (
        b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    found.append(chunked + b"9\r\nquestion\n\r\n4\r\none\n\r\n0\r\n\r\n")
    paths = ("/health", "/ready", "/metrics", "/v1/models", "/docs", "/openapi.json", "/version", "/nowhere")
    return (
        found + [request("GET", path) for path in paths] + [request("HEAD", "/ready"), request("OPTIONS", "/feedback")]
    )


VALID = valid_requests()
FRAGMENTS = [
    b"\0",
    b"\r\n",
    b"\n",
    b" ",
    b"%00",
    b'"',
    b"9" * 20,
    b"\xed\xa0\x80",
    *(line.encode()[:200] for line in HEADERS),
]


def _first_line(rng: random.Random) -> bytes:
    line = f"{rng.choice(METHODS)} {rng.choice(TARGETS)} {rng.choice(VERSIONS)}"
    return line.encode() + b"\r\nHost: localhost\r\n\r\n"


def _wrong_request_line(rng: random.Random) -> bytes:
    parts = [["GET"], ["/ready"], ["HTTP/1.1"]]
    wrong = rng.randrange(3)
    parts[wrong] = (METHODS, TARGETS, VERSIONS)[wrong]
    return " ".join(rng.choice(part) for part in parts).encode() + b"\r\nHost: localhost\r\n\r\n"


def _headers(rng: random.Random) -> bytes:
    lines = rng.choices(HEADERS, k=rng.randint(1, 3))
    if rng.random() < 0.05:
        lines += [f"X-{number}: y" for number in range(rng.choice([190, 250, 3000]))]
    top = rng.choice(["GET /ready", "POST /v1/chat/completions", "POST /invocations", "HEAD /metrics"])
    body = rng.choice(["", "hello", '{"messages": []}', *CHUNKS])
    return _encode("\r\n".join([f"{top} HTTP/1.1", "Host: localhost", *lines, "", body]))


def _smuggle(rng: random.Random) -> bytes:
    two = rng.sample([line for line in HEADERS if line.lower().startswith(("content-l", "transfer-e"))], 2)
    inner = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    body = rng.choice([inner, f"0\r\n\r\n{inner}", f"5\r\nhello\r\n0\r\n\r\n{inner}", *CHUNKS])
    return _encode("POST /invocations HTTP/1.1\r\nHost: localhost\r\n" + "\r\n".join(two) + "\r\n\r\n" + body)


def _chunks(rng: random.Random) -> bytes:
    kind = rng.choice(["application/json", "text/csv"])
    top = f"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return _encode(top + rng.choice(CHUNKS))


def _lengths(rng: random.Random) -> bytes:
    length = rng.choice(
        ["0", "1", "5", "6", "1000", "999999", "2000000", "99999999999", "-5", " 5 ", "5\r\nContent-Length: 6"]
    )
    return _encode(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\nhello")


def _pipeline(rng: random.Random) -> bytes:
    many = rng.choices([*VALID, *JUNK], k=rng.randint(2, 12))
    return b"".join(many) if rng.random() < 0.8 else rng.choice(VALID) * rng.choice([20, 60, 300])


def _junk(rng: random.Random) -> bytes:
    return rng.choice(JUNK) if rng.random() < 0.5 else rng.randbytes(rng.randint(1, 3000))


def _truncate(rng: random.Random) -> bytes:
    whole = rng.choice(VALID)
    return whole[: rng.randint(1, len(whole) - 1)]


def _upgrade(rng: random.Random) -> bytes:
    key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    kind = rng.choice(["websocket", "h2c", "TLS/1.0", "\0", "x" * 3000])
    method, path = rng.choice(["GET", "POST"]), rng.choice(["/ready", "/v1/chat/completions", "/ws"])
    content = request(method, path, ("Connection", "Upgrade"), ("Upgrade", kind), ("Sec-WebSocket-Version", "13"), key)
    return content + rng.choice([b"", b"\x81\x85\0\0\0\0hello", rng.choice(VALID)])


def _values(rng: random.Random) -> bytes:
    """Return a valid request with one value of another type."""
    top, _, body = rng.choice(VALID[:9]).partition(b"\r\n\r\n")
    value = json.loads(body)
    holder = value
    while isinstance(holder, dict) and isinstance(inner := holder[rng.choice([*holder])], dict):
        holder = inner
    holder[rng.choice([*holder])] = "@@"
    if rng.random() < 0.3:
        value[rng.choice(["n", "max_tokens", "stream", "model", "stop", "logprobs", "unknown", ""])] = "@@"
    changed = json.dumps(value).replace('"@@"', rng.choice(VALUES)).encode("latin-1", "replace")
    return top.rpartition(b"Content-Length")[0] + f"Content-Length: {len(changed)}\r\n\r\n".encode() + changed


def _damage(rng: random.Random) -> bytes:
    content = bytearray(rng.choice(VALID))
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randrange(len(content) + 1)
        to = min(len(content), at + rng.choice([1, 2, 4, 30]))
        content[at:to] = rng.choice(
            [b"", bytes(content[at:to]) * 2, rng.randbytes(to - at), bytes(rng.choice(VALID)[:40]), *FRAGMENTS]
        )
        content = content or bytearray(b"x")
    return bytes(content)


KINDS: Sequence[Callable[[random.Random], bytes]] = (
    _first_line, _wrong_request_line, _headers, _smuggle, _chunks, _lengths, _pipeline, _junk, _truncate, _upgrade,
    _values, _damage, _damage, _damage,
)  # fmt: skip


def _encode(text: str) -> bytes:
    return text.encode("latin-1", "xmlcharrefreplace")


def cases(count: int, seed: int) -> Iterator[bytes]:
    """Yield malformed requests, of all kinds in turn."""
    rng = random.Random(seed)
    for number in range(count):
        yield KINDS[number % len(KINDS)](rng)
