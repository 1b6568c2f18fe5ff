"""`/openapi.json` against the endpoint: schemathesis sends valid and invalid requests."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fledge.supervision.endpoints import EndpointStatus
from tests.serving.harness import client, create_workspace, pids, served

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
KEY = "k" * 32
OPEN = {"/health", "/ping", "/ready"}
# The defaults and 413: an oversized body is refused before it is parsed.
CONFIG = """
hooks = "tests.serving.schema_hooks"
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[EndpointStatus]:
    config = create_workspace(tmp_path_factory.mktemp("schema"), engine_cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_API_KEY", KEY)
        with served(config, engine="scripted", record=True) as running:  # needed by feedback
            yield running


@pytest.fixture(scope="module")
def http(endpoint: EndpointStatus) -> Iterator[httpx.Client]:
    with client(endpoint, headers={"authorization": f"Bearer {KEY}"}) as opened:
        yield opened


@pytest.fixture(scope="module")
def schema(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def _run(endpoint: EndpointStatus, folder: Path, *options: str) -> dict[str, Any]:
    """Run schemathesis, which must pass, and return its report."""
    (folder / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    report = folder / "report.json"
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", str(folder / "schemathesis.toml"), "run", f"{endpoint.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {KEY}", "--request-timeout", "120"),
        *("--report", "json", "--report-json-path", str(report), "--no-color", "--continue-on-failure"),
        *("--generation-database", "none", *options),
    ]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def _assert_conforms(endpoint: EndpointStatus, folder: Path, examples: int, *options: str) -> None:
    before = pids(endpoint)
    every = ("--max-examples", str(examples), "--mode", "all", *options)
    found = _run(endpoint, folder, *every, "--phases", "examples,coverage,fuzzing")
    assert found["operations"]["tested"] == 11
    assert found["test_cases"]["generated"] > 5 * examples
    for operation in ("/invocations", "/v1/chat/completions", "/v1/completions", "/feedback"):
        rates = found["valid_rates"][f"POST {operation}"]
        assert sum(phase["accepted"] for phase in rates.values()) >= 20
    # Without the exclusion schemathesis would start only with /v1/models, which needs no input.
    found = _run(endpoint, folder, *every, "--phases", "stateful", "--exclude-path-regex", "^/v1/models")
    assert found["test_cases"]["generated"] > examples
    assert pids(endpoint) == before
    assert "Traceback" not in (Path(endpoint.folder) / "log.txt").read_text(encoding="utf-8")


@pytest.mark.timeout(900)
def test_endpoint_conforms_to_its_schema(endpoint: EndpointStatus, tmp_path: Path) -> None:
    _assert_conforms(endpoint, tmp_path, 100, "--seed", "1")


@pytest.mark.soak
def test_endpoint_conforms_to_its_schema_with_many_examples(endpoint: EndpointStatus, tmp_path: Path) -> None:
    _assert_conforms(endpoint, tmp_path, 1000)


def test_schema_declares_where_a_key_is_required(http: httpx.Client, schema: dict[str, Any]) -> None:
    assert schema["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation.get("security") == (None if path in OPEN else [{"key": []}])
            asked = http.request(method, path.replace("{model}", "mine"), headers={"authorization": "Bearer no"})
            assert (asked.status_code == 401) == (path not in OPEN)


def test_other_methods_return_405_with_the_allowed_ones(http: httpx.Client, schema: dict[str, Any]) -> None:
    for path, operations in schema["paths"].items():
        for method in ("get", "post", "put", "patch", "delete", "options", "trace"):
            if method not in operations:
                refused = http.request(method, path.replace("{model}", "mine"))
                assert refused.status_code == 405
                assert refused.headers["allow"].lower() == ", ".join(operations)


def test_schema_describes_the_errors(schema: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        shape = "#/components/schemas/" + ("ScoringError" if path == "/invocations" else "Error")
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert {"200", "400", "403", "413", "500"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                assert "x-request-id" in response["headers"]
                if status >= "400" and (path, status) != ("/ready", "503"):
                    assert response["content"] == {"application/json": {"schema": {"$ref": shape}}}


def test_schema_lists_served_models_and_limits(schema: dict[str, Any]) -> None:
    schemas = schema["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest"):
        assert schemas[name]["properties"]["model"]["enum"] == ["", "mine", "mine@champion", "mine/1"]
    assert schemas["ChatRequest"]["properties"]["n"]["anyOf"][0]["maximum"] == 8
    body = schema["paths"]["/invocations"]["post"]["requestBody"]["content"]
    assert body["application/json"]["example"]["dataframe_split"]["columns"] == ["question"]
    assert body["text/csv"]["example"].startswith("question\n")
