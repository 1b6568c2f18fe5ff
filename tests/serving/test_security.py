"""Access control: every route with every method and kind of key; Host, Origin and CORS; TLS; content of errors."""

import itertools
import json
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from fledge.core.errors import InputError
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus, prepare
from tests.conftest import PATIENCE_S, Run
from tests.serving.harness import client, create_workspace, outbox, served, until
from tests.serving.raw import Answer, ask, port_of, request

pytestmark = pytest.mark.slow

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OPEN = {"/health", "/ready", "/ping"}
UNKNOWN = (
    "/", "/nowhere", "/v1", "/v1/", "/v1/models/", "/METRICS", "//metrics", "/metrics/", "/health/", "/health/x",
    "/%6detrics", "/health/../metrics", "/health%2f..%2fmetrics", "/health;x", "/health%00", "/ready%20",
    "/static-offline-docs/", "/static-offline-docs/../metrics", "/redoc", "/admin", "/.env", "/docs/oauth2-redirect",
)  # fmt: skip
OWN, ALICE, BOB, CAROL = (letter * 64 for letter in "abcd")
ORIGIN = "https://app.example.org"
WORDS = "my-very-own-words"
HOSTS = ("127.0.0.1", "localhost", "LocalHost", "[::1]", "api.example.org", "API.EXAMPLE.ORG", "[2001:db8::7]")
FOREIGN_HOSTS = (
    "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2", "0.0.0.0", "", "[::1", "::1",
    "localhost:5001:5001", "localhost, evil.example", "user@localhost", "localhost/", "[localhost]", "[::1]x",
    "2130706433", "localhost\u00b2", "localhost:\u00b2",
)  # fmt: skip


MALFORMED_KEYS = [
    "Bearer", "Bearer ", ALICE, f"Basic {ALICE}", f"Bearer {ALICE} x", f"Bearer {ALICE[:-1]}",
    f"Bearer {ALICE.upper()}", f"Bearer alice {ALICE}", "Bearer alice", f"Bearer\x0b{ALICE}", f"Bearer: {ALICE}",
    "Bearer \xff\xfe", f"Bearer {'x' * 9000}",
]  # fmt: skip
BAD_BODIES = [
    b"{", b"[]", b"null", b'"x"', b"{}", b'{"messages": 1}', b'{"messages": []}', b"\xff",
    b'{"model": "../../etc/passwd"}', b'{"messages": [{"role": "user", "content": "x"}], "model": "nobody", "n": 99}',
    b'{"dataframe_split": 1}', b'{"inputs": {}}', b'{"messages": [{"role": "user", "content": "x"}], "n": 99}',
    b'{"instances": [1]}', b"[" * 5000,
]  # fmt: skip
BAD_TYPES = ["text/csv", "application/vnd.apache.parquet", "text/plain", "application/json; charset=utf-16", ""]
ROOT = Path(__file__).parents[2]
INTERNALS = [
    "traceback", 'file "', ".py", str(ROOT).lower(), "/root/", "/home/", "site-packages", "pydantic", "fastapi",
    "uvicorn", WORDS, OWN, ALICE,
]  # fmt: skip
MALFORMED_HTTP = [
    b"GET\r\n\r\n", b"\0\0\0\0", b"GET /health HTTP/1.1\r\nHost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n", b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0" * 20,
]  # fmt: skip


class Keyed(NamedTuple):
    """An endpoint that requires a key, and its keys file."""

    endpoint: EndpointStatus
    file: Path

    @property
    def port(self) -> int:
        return port_of(self.endpoint.url)

    def ask(
        self, method: str, path: str, *headers: tuple[str, str], host: str = "localhost", body: bytes = b""
    ) -> Answer:
        found = ask(self.port, request(method, path, ("Connection", "close"), *headers, host=host, body=body))
        assert found is not None, (method, path, headers)
        return found

    def write(self, **keys: str) -> None:
        self.file.write_text("".join(f"{name} {key}\n" for name, key in keys.items()), encoding="utf-8")
        time.sleep(1.1)  # changes take effect within a second


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> ServeConfig:
    serving = create_workspace(tmp_path_factory.mktemp("secure"), engine_cache)
    return replace(serving, engine="scripted", record=True)


@pytest.fixture(scope="module")
def keyed(config: ServeConfig) -> Iterator[Keyed]:
    """Keys from the environment and a file; one allowed Origin; two allowed hosts besides loopback."""
    file = Path(config.state) / "keys"
    file.write_text(f"# people\nalice {ALICE}\nbob {BOB}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_API_KEY", OWN)
        hosts = ("api.example.org", "2001:db8::7")
        with served(config, keys_file=str(file), cors_origins=(f"{ORIGIN}/",), allowed_hosts=hosts) as running:
            yield Keyed(running, file)


@pytest.fixture(scope="module")
def opened(config: ServeConfig, certificate: tuple[Path, Path]) -> Iterator[httpx.Client]:
    """A client without a key, over TLS, of an endpoint that requires one except for metrics and docs."""
    cert, key = certificate
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_API_KEY", OWN)
        options = {"open_metrics": True, "open_docs": True, "tls_cert": str(cert), "tls_key": str(key), "record": False}
        with served(config, **options) as running:
            trusting = ssl.create_default_context(cafile=str(cert))
            with httpx.Client(base_url=running.url, verify=trusting, trust_env=False, timeout=PATIENCE_S) as http:
                yield http


def _bearer(key: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {key}")


def _routes(keyed: Keyed) -> list[str]:
    """Return every path of the API and of the docs, and unknown paths."""
    with client(keyed.endpoint, headers=dict([_bearer(OWN)])) as http:
        paths = [*http.get("/openapi.json").json()["paths"]]
        files = [urlsplit(urljoin("/docs", link)).path for link in _links(http.get("/docs").text)]
    assert len(paths) > 8
    assert files
    return [*paths, "/docs", "/openapi.json", *files, *UNKNOWN]


def _links(page: str) -> list[str]:
    return re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page)


def test_every_route_and_method_requires_a_valid_key(keyed: Keyed) -> None:
    keyed.write(alice=ALICE, bob=BOB)
    routes = _routes(keyed)
    keyed.write(alice=ALICE, carol=CAROL)  # revokes bob's and adds carol's at run time
    refused = {"none": (), "wrong": (_bearer("x" * 64),), "revoked": (_bearer(BOB),)}
    allowed = {"right": (_bearer(ALICE),), "own": (_bearer(OWN),), "added": (_bearer(CAROL),)}
    identities = set()
    for method, path in itertools.product(METHODS, routes):
        for kind, headers in refused.items():
            answer = keyed.ask(method, path, *headers)
            identities.add(answer.headers["x-request-id"])
            if path in OPEN:
                assert answer.status in (200, 405), (method, path, kind)
            else:
                assert answer.status == 401, (method, path, kind)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert method == "HEAD" or json.loads(answer.body)
        for kind, headers in allowed.items():
            answer = keyed.ask(method, path, *headers)
            identities.add(answer.headers["x-request-id"])
            assert answer.status in (200, 307, 400, 404, 405, 415), (method, path, kind, answer)
    assert len(identities) == len(METHODS) * len(routes) * 6


def test_malformed_keys_are_refused(keyed: Keyed) -> None:
    keyed.write(alice=ALICE)
    for value in MALFORMED_KEYS:
        given = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + value.encode("latin-1") + b"\r\n\r\n"
        answer = ask(keyed.port, given)
        assert answer is not None
        assert answer.status in (400, 401), value
    assert keyed.ask("GET", "/v1/models", ("authorization", f"bearer   {ALICE} ")).status == 200


def test_key_in_other_headers_or_the_query_is_ignored(keyed: Keyed) -> None:
    places = [("x-api-key", OWN), ("cookie", f"key={OWN}"), ("proxy-authorization", f"Bearer {OWN}")]
    assert keyed.ask("GET", "/v1/models", *places).status == 401
    assert keyed.ask("GET", f"/v1/models?key={OWN}&api_key={OWN}").status == 401
    trailer = (
        b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    )
    answer = ask(keyed.port, trailer + f"Authorization: Bearer {OWN}\r\n\r\n".encode())
    assert answer is not None
    assert answer.status == 401


@pytest.mark.parametrize("broken", ["alice short\n", None])
def test_invalid_or_missing_keys_file_leaves_only_the_environment_key(keyed: Keyed, broken: str | None) -> None:
    keyed.write(alice=ALICE)
    assert keyed.ask("GET", "/v1/models", _bearer(ALICE)).status == 200
    if broken is None:
        keyed.file.unlink()
    else:
        keyed.file.write_text(f"bob {BOB}\n{broken}", encoding="utf-8")
    time.sleep(1.1)
    assert [keyed.ask("GET", "/v1/models", _bearer(key)).status for key in (ALICE, BOB, OWN)] == [401, 401, 200]
    keyed.write(alice=ALICE)
    assert keyed.ask("GET", "/v1/models", _bearer(ALICE)).status == 200


def test_feedback_is_recorded_with_the_key_name(keyed: Keyed) -> None:
    keyed.write(alice=ALICE, bob=BOB)
    kind, body = ("Content-Type", "application/json"), b'{"request_id": "%s", "value": true}' % (b"0" * 32)
    for key in (ALICE, BOB, OWN):
        assert keyed.ask("POST", "/feedback", _bearer(key), kind, body=body).status == 200
    folder = Path(keyed.endpoint.folder) / "outbox"

    def users() -> list[str]:
        lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
        return [value["user"] for value in map(json.loads, lines) if "feedback_id" in value]

    assert until(lambda: users() == ["alice", "bob", "default"])


def test_unauthorized_requests_are_not_recorded(keyed: Keyed) -> None:
    for _ in range(5):
        assert keyed.ask("POST", "/invocations", body=b"{}").status == 401
        assert keyed.ask("POST", "/invocations", host="evil.example", body=b"{}").status == 403
    keyed.ask("POST", "/invocations", _bearer(OWN), ("Content-Type", "application/json"), body=b"{}")
    assert until(lambda: len(outbox(keyed.endpoint)) > 0)
    assert not {record.status for record in outbox(keyed.endpoint)} & {401, 403}


@pytest.mark.parametrize("method", METHODS)
def test_only_allowed_hosts_are_served(keyed: Keyed, method: str) -> None:
    for host, port in itertools.product(HOSTS, ("", ":5001", ":", f":{keyed.port}")):
        answer = keyed.ask(method, "/v1/models", _bearer(OWN), host=host + port)
        assert answer.status in (200, 405), (host, port)
    for host, path in itertools.product(FOREIGN_HOSTS, ("/health", "/v1/models", "/nowhere")):
        answer = keyed.ask(method, path, _bearer(OWN), host=host)
        assert answer.status in (400, 403), host
        assert len(answer.headers["x-request-id"]) == 32


def test_request_needs_exactly_one_host(keyed: Keyed) -> None:
    assert keyed.ask("GET", "/health", ("Host", "localhost")).status == 403
    assert keyed.ask("GET", "/health", ("Host", "evil.example")).status == 403
    assert keyed.ask("GET", "/health", host="").status == 403
    assert keyed.ask("GET", "http://evil.example/health", host="evil.example").status == 403
    trailer = (
        b"POST /ping HTTP/1.1\r\nHost: evil.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: localhost\r\n\r\n"
    )
    answer = ask(keyed.port, trailer)
    assert answer is not None
    assert answer.status == 403


@pytest.mark.parametrize("method", METHODS)
def test_other_origins_are_refused(keyed: Keyed, method: str) -> None:
    port = keyed.port
    own = [f"http://localhost:{port}", f"https://localhost:{port}", f"HTTP://LOCALHOST:{port}"]
    here = f"http://localhost:{port}"
    foreign = ["null", "", "http://evil.example", f"{here}1", "http://localhost", f"http://127.0.0.1:{port}"]
    foreign += [f"{here}@evil.example", f"{here}.evil.example", here.removeprefix("http:"), f"ftp://localhost:{port}"]
    foreign += [f"{ORIGIN}.evil.example", ORIGIN.replace("https", "http"), f"{ORIGIN}:443", "*", f"{ORIGIN}, {here}"]
    for path in ("/health", "/v1/models", "/invocations"):
        for origin in own:
            assert keyed.ask(method, path, _bearer(OWN), ("Origin", origin), host=f"localhost:{port}").status != 403
        for origin in foreign:
            answer = keyed.ask(method, path, _bearer(OWN), ("Origin", origin), host=f"localhost:{port}")
            assert answer.status == 403, (origin, path)
            assert not [name for name in answer.headers if name.startswith("access-control-allow")]
    twice = [("Origin", f"http://localhost:{port}"), ("Origin", "http://evil.example")]
    assert keyed.ask(method, "/v1/models", _bearer(OWN), *twice, host=f"localhost:{port}").status == 403


def test_configured_origin_is_allowed_with_a_key(keyed: Keyed) -> None:
    origin = ("Origin", ORIGIN)
    preflight = [origin, ("Access-Control-Request-Method", "POST"),
                 ("Access-Control-Request-Headers", "authorization, x-session-id, x-stainless-os")]  # fmt: skip
    answer = keyed.ask("OPTIONS", "/v1/chat/completions", *preflight)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert {"authorization", "x-stainless-os"} <= set(
        answer.headers["access-control-allow-headers"].lower().split(", ")
    )
    models = keyed.ask("GET", "/v1/models", origin, _bearer(OWN))
    assert (models.status, models.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "x-request-id" in models.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in models.headers
    refused = keyed.ask("GET", "/v1/models", origin)
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)  # readable by the page
    assert keyed.ask("OPTIONS", "/v1/models", origin).status == 401  # no preflight
    assert keyed.ask("OPTIONS", "/v1/models", *preflight[:1], ("Access-Control-Request-Method", "DELETE")).status == 400


def test_errors_reveal_no_internals_or_other_requests(keyed: Keyed) -> None:
    kind, key = ("Content-Type", "application/json"), _bearer(OWN)
    chat = json.dumps({"messages": [{"role": "user", "content": WORDS}]}).encode()
    assert keyed.ask("POST", "/v1/chat/completions", key, kind, body=chat).status == 200
    paths = ("/v1/chat/completions", "/v1/completions", "/invocations", "/feedback")
    answers = [keyed.ask("POST", path, key, kind, body=body) for body in BAD_BODIES for path in paths]
    answers += [keyed.ask(method, path, key) for method in METHODS[2:] for path in UNKNOWN]
    answers += [keyed.ask("POST", "/invocations", key, ("Content-Type", mime), body=b"\0PAR1") for mime in BAD_TYPES]
    refused = [answer for answer in answers if answer.status not in (200, 307)]
    assert len(refused) > 0.8 * len(answers)
    for answer in refused:
        assert 400 <= answer.status < 500
        assert len(answer.body) < 1500
        assert "server" not in answer.headers
        text = answer.body.decode().lower()
        assert not [hint for hint in (*INTERNALS, str(keyed.file.parent).lower()) if hint in text], text


@pytest.mark.parametrize("content", MALFORMED_HTTP)
def test_malformed_http_is_answered_with_a_request_id(keyed: Keyed, content: bytes) -> None:
    answer = ask(keyed.port, content)
    assert answer is not None
    assert answer.status == 400
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}


def test_only_opened_paths_need_no_key(opened: httpx.Client) -> None:
    assert opened.get("/metrics").status_code == 200
    assert opened.get("/docs").status_code == 200
    assert set(opened.get("/openapi.json").json()["paths"]) > {"/invocations", "/feedback"}
    for path in ("/v1/models", "/version", "/docs/oauth2-redirect", "/metrics/", "/docs/", "/static-offline-docs"):
        assert opened.get(path).status_code == 401, path
    assert opened.post("/metrics").status_code == 405
    assert opened.get("/static-offline-docs/../v1/models").status_code in (401, 404)
    for path in ("%2e%2e/app.py", "..%2f..%2fv1/models", "/etc/passwd"):
        assert opened.get(f"/static-offline-docs/{path}").status_code in (401, 404), path
    assert opened.get("/v1/models", headers=dict([_bearer(OWN)])).status_code == 200


def test_docs_load_nothing_from_the_network(opened: httpx.Client) -> None:
    page = opened.get("/docs").text
    links = [link for link in _links(page) if not link.startswith("data:")]
    assert any(link.endswith(".js") for link in links)
    for link in links:
        assert not re.match(r"(?:[a-z+]+:)?//", link), link
        file = opened.get(urljoin("/docs", link))
        assert file.status_code == 200, link
        if link.partition("?")[0].endswith(".css"):
            assert not re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", file.text), link
    assert not re.findall(r"""(?:fetch|import|load)\w*\(\s*["'](?:https?:)?//""", page)


def test_tls_endpoint_does_not_answer_plain_http(opened: httpx.Client, certificate: tuple[Path, Path]) -> None:
    assert opened.base_url.scheme == "https"
    table = {"dataframe_split": {"columns": ["question"], "data": [["over tls?"]]}}
    answer = opened.post("/invocations", json=table, headers=dict([_bearer(OWN)]))
    assert answer.json() == {"predictions": ["OVER TLS?"]}
    chat = {"messages": [{"role": "user", "content": "one two"}], "stream": True}
    with opened.stream("POST", "/v1/chat/completions", json=chat, headers=dict([_bearer(OWN)])) as streamed:
        assert [line for line in streamed.iter_lines() if line][-1] == "data: [DONE]"
    assert ask(int(opened.base_url.port or 0), request("GET", "/health")) is None
    with httpx.Client(base_url=opened.base_url, trust_env=False) as distrusting, pytest.raises(httpx.ConnectError):
        distrusting.get("/health")


@pytest.mark.parametrize("own", ["", "short", "k" * 31])
def test_serving_beyond_loopback_requires_a_strong_key(
    config: ServeConfig, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEDGE_API_KEY", own)
    for host in ("0.0.0.0", "::", "", "192.0.2.1", "127.0.0.2"):
        with pytest.raises(InputError, match="needs a key of at least 32 bytes"):
            prepare(replace(config, host=host), "mine@champion")
    if own:  # a weak key is refused even with a file of strong ones
        file = Path(config.state) / "good"
        file.write_text(f"alice {ALICE}\n", encoding="utf-8")
        with pytest.raises(InputError, match="needs a key of at least 32 bytes"):
            prepare(replace(config, host="0.0.0.0", keys_file=str(file)), "mine@champion")


@pytest.mark.parametrize(("own", "file"), [("", ""), ("short", ""), ("", "alice short\n"), ("", "#\n")])
def test_command_line_refuses_weak_keys_with_exit_code_2(
    config: ServeConfig, fledge: Run, tmp_path: Path, own: str, file: str
) -> None:
    (tmp_path / "keys").write_text(file, encoding="utf-8")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "FLEDGE_API_KEY": own, "FLEDGE_HOME": config.state}
    keys = ["--keys-file", str(tmp_path / "keys")] if file else []
    # An unknown release, so that nothing can listen beyond loopback if the check fails.
    ended = fledge("serve", "nobody@champion", "--host", "0.0.0.0", *keys, env=environment, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "32 bytes" in ended.stderr
    assert "openssl rand" in ended.stderr
    assert not (Path(config.state) / "endpoints" / "5001" / "state.json").exists()
