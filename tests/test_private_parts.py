"""The private parts of dependencies that fledge uses; if one is gone, the message says which."""

import inspect

import pytest

pytest.importorskip("uvicorn")

from huggingface_hub import file_download
from mlflow.tracing.client import TracingClient
from uvicorn.protocols.http import httptools_impl

from fledge.engines.grammars import regex
from fledge.serving.connection import Connection

OVERRIDDEN = [
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_body",
    "on_response_complete",
    "timeout_keep_alive_handler",
    "pause_writing",
    "resume_writing",
    "send_400_response",
    "_start_asgi_task",
    "_unsupported_upgrade_warning",
    "_unset_keepalive_if_required",
]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_uvicorn_has_the_method(name: str) -> None:
    method = getattr(httptools_impl.HttpToolsProtocol, name, None)
    assert method, f"uvicorn's HttpToolsProtocol.{name} is gone: see fledge.serving.connection"
    if name in vars(Connection):
        parameters = [len(inspect.signature(each).parameters) for each in (method, getattr(Connection, name))]
        assert parameters[0] == parameters[1], f"uvicorn's HttpToolsProtocol.{name} has other parameters"


@pytest.mark.parametrize("name", ["cycle", "headers", "loop", "pipeline", "scope", "transport"])
def test_uvicorn_has_the_attribute(name: str) -> None:
    source = inspect.getsource(httptools_impl.HttpToolsProtocol)
    assert f"self.{name}" in source, f"uvicorn's HttpToolsProtocol.{name} is gone: see fledge.serving.connection"


@pytest.mark.parametrize("name", ["disconnected", "message_event", "response_complete"])
def test_uvicorn_has_the_attribute_of_a_cycle(name: str) -> None:
    source = inspect.getsource(httptools_impl.RequestResponseCycle)
    assert f"self.{name}" in source, f"uvicorn's RequestResponseCycle.{name} is gone: see fledge.serving.connection"


def test_uvicorn_has_status_lines() -> None:
    assert httptools_impl.STATUS_LINE[431].startswith(b"HTTP/1.1 431")


def test_huggingface_hub_has_the_download_functions() -> None:
    for name, parameters in (
        ("http_get", {"url", "temp_file", "resume_size", "expected_size"}),
        ("repo_folder_name", {"repo_id", "repo_type"}),
    ):
        function = getattr(file_download, name, None)
        assert function, f"huggingface_hub.file_download.{name} is gone: see fledge.models.hub"
        assert parameters <= set(inspect.signature(function).parameters)


def test_mlflow_caches_the_version_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TracingClient("http://127.0.0.1:9").store
    method = getattr(store, "_get_server_version", None)
    assert hasattr(method, "cache_clear"), "MLflow's RestStore._get_server_version: see fledge.tracking._mlflow_traces"


def test_re_parses_patterns_to_the_known_parts() -> None:
    """See fledge.engines.grammars.regex."""
    parsed = regex._parser.parse(r"^a[b-d]{2,3}(x|yz)$")
    kinds = [str(kind) for kind, _ in parsed]
    assert kinds == ["AT", "LITERAL", "MAX_REPEAT", "SUBPATTERN", "AT"]
    assert parsed.getwidth() == (4, 6)
