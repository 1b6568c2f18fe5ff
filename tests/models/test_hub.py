"""Download in a subprocess, from a real server with the Hub's API."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from fledge.core.generation import GenerationParams
from fledge.engines import selection
from fledge.engines.engine import generate
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot
from tests.conftest import PATIENCE_S, Run
from tests.models.broken_models import CONFIG, PARAMETERS, TOKENIZER, tensors
from tests.models.hub_server import Hub, serve

pytestmark = pytest.mark.slow

CHUNK = 10 * 2**20  # bytes that the Hub's client buffers before writing
SHARE = 0.4  # fraction of the large file that is a little more than one chunk
WEIGHTS = "model.safetensors"
PROGRAM = """
import dataclasses, json, sys
from fledge.core.errors import FledgeError
from fledge.models import snapshot
try:
    print(json.dumps({**dataclasses.asdict(snapshot.resolve(sys.argv[1])), "error": ""}, default=str))
except FledgeError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""


weights = cache(lambda inner: save(tensors(inner)))


def put(hub: Hub, inner: int, **behaviour: Any) -> None:
    """Offer a model of 68 bytes per unit of `n_inner`."""
    hub.files |= {"config.json": json.dumps({**CONFIG, "n_inner": inner}).encode(), WEIGHTS: weights(inner)}
    vars(hub).update(behaviour)


SMALL, LARGE = 32, int(CHUNK / SHARE) // 68


def repository_files() -> dict[str, bytes]:
    """Return the files of a repository; many must never be requested."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": json.dumps(TOKENIZER).encode(),
        "README.md": b"---\nlicense: mit\n---\n",
        WEIGHTS: weights(SMALL),
        "pytorch_model.bin": b"never",
        "tf_model.h5": b"never",
        "modeling.py": b"never",
        "onnx/config.json": b"never",
        "other.safetensors": b"never",
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub(repository_files())) as running:
        yield running


def start(hub: Hub, home: Path, model: str = "org/model", **environment: str) -> "subprocess.Popen[str]":
    loopback = "127.0.0.1,localhost"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    clean |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": loopback, "no_proxy": loopback}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, model],
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def resolve(hub: Hub, home: Path, model: str = "org/model", **environment: str) -> dict[str, Any]:
    child = start(hub, home, model, **environment)
    try:
        out, stderr = child.communicate(timeout=PATIENCE_S)
    finally:
        child.kill()
    assert out, stderr
    result: dict[str, Any] = json.loads(out)
    return result


def test_a_model_is_fetched_once_and_then_used_offline(hub: Hub, tmp_path: Path) -> None:
    first = resolve(hub, tmp_path)
    assert (first["commit"], first["licence"], first["parameters"]) == ("a" * 40, "mit", PARAMETERS)
    assert sorted(first["files"]) == ["README.md", "config.json", WEIGHTS, "tokenizer.json"]
    paths = [path for _, path, _ in hub.requests]
    assert {path.split("/", 5)[5] for path in paths if "/resolve/" in path} == set(first["files"])
    assert not [path for path in paths if "xet" in path]
    hub.requests.clear()
    hub.commits["main"] = "b" * 40  # the branch moves; the resolved commit stays
    assert resolve(hub, tmp_path) == first
    assert resolve(hub, tmp_path, HF_HUB_OFFLINE="1") == first
    assert resolve(hub, tmp_path, f"org/model@{'a' * 40}") == first
    assert hub.requests == []


def test_a_cached_model_needs_no_hub(tmp_path: Path) -> None:
    with serve(Hub(repository_files())) as hub:
        first = resolve(hub, tmp_path)
    assert resolve(hub, tmp_path) == first


def test_a_local_copy_has_the_same_digest(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("README.md", "config.json", WEIGHTS, "tokenizer.json"):
        (folder / name).write_bytes(hub.files[name])
    assert resolve(hub, tmp_path)["digest"] == snapshot.resolve(str(folder)).digest


def test_each_revision_is_a_separate_snapshot(hub: Hub, tmp_path: Path) -> None:
    hub.commits["v2"] = "b" * 40
    assert resolve(hub, tmp_path)["commit"] == "a" * 40
    assert resolve(hub, tmp_path, "org/model@v2")["commit"] == "b" * 40
    assert len(hub.content_requests(WEIGHTS)) == 1  # the same content is not fetched again


def test_a_download_resumes_after_a_broken_connection(hub: Hub, tmp_path: Path) -> None:
    put(hub, LARGE, cut_at=SHARE)
    result = resolve(hub, tmp_path)
    first, second = hub.content_requests(WEIGHTS)
    assert start_of(first) == 0
    assert CHUNK <= start_of(second) <= len(hub.files[WEIGHTS]) * SHARE
    assert Path(result["path"], WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_download_resumes_within_the_first_chunk(hub: Hub, tmp_path: Path) -> None:
    put(hub, LARGE // 2, cut_at=SHARE)
    assert resolve(hub, tmp_path)["error"] == ""
    _, second = hub.content_requests(WEIGHTS)
    assert start_of(second) > len(hub.files[WEIGHTS]) * SHARE - 2**20


def test_a_connection_that_always_breaks_asks_to_try_again(hub: Hub, tmp_path: Path) -> None:
    put(hub, LARGE, cut_at=0.9, cut_always=True)
    result = resolve(hub, tmp_path)
    assert result["error"] == "FledgeError"
    assert "again" in result["hint"]
    assert "cannot be reached" not in result["message"]
    hub.cut_at = 0.0
    assert resolve(hub, tmp_path)["error"] == ""
    assert start_of(hub.content_requests(WEIGHTS)[-1]) >= CHUNK


def test_a_killed_download_resumes(hub: Hub, tmp_path: Path) -> None:
    put(hub, LARGE, cut_at=SHARE, stall=True)
    killed = start(hub, tmp_path)
    _until(lambda: any(path.stat().st_size >= CHUNK for path in tmp_path.rglob("*.partial")))
    killed.kill()
    killed.communicate()
    (partial,) = tmp_path.rglob("*.partial")
    kept = partial.stat().st_size
    result = resolve(hub, tmp_path)
    assert result["error"] == ""
    assert start_of(hub.content_requests(WEIGHTS)[-1]) == kept >= CHUNK
    assert not list(tmp_path.rglob("*.partial"))
    assert Path(result["path"], WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_corrupt_content_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.corrupt = True
    result = resolve(hub, tmp_path)
    assert "does not match its SHA-256" in result["message"]
    assert result["hint"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size >= len(weights(SMALL))]
    hub.corrupt = False
    assert resolve(hub, tmp_path)["error"] == ""


def test_a_private_model_needs_a_token_that_is_sent_to_the_hub_only(hub: Hub, tmp_path: Path) -> None:
    hub.token = "secret"  # noqa: S105
    refused = resolve(hub, tmp_path)
    assert refused["error"] == "InputError"
    assert "HF_TOKEN" in refused["hint"]
    assert resolve(hub, tmp_path, HF_TOKEN="secret")["error"] == ""  # noqa: S106
    (from_store,) = [headers for verb, path, headers in hub.requests if verb == "GET" and path == f"/{WEIGHTS}"]
    assert "authorization" not in {name.lower() for name in from_store}
    assert hub.content_requests("config.json")[-1]["authorization"] == "Bearer secret"


def test_a_gated_model_asks_for_a_token(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    result = resolve(hub, tmp_path)
    assert result["error"] == "InputError"
    assert "HF_TOKEN" in result["hint"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("org/other", "the Hub has no model"),
        ("org/model@v9", "no such revision"),
        ("org/model@a..b", "no such revision"),
        ("org/..", "is not a Hub id"),
        (f"org/{'m' * 97}", "is not a Hub id"),
    ],
)
def test_a_model_missing_on_the_hub_is_refused(hub: Hub, tmp_path: Path, model: str, words: str) -> None:
    result = resolve(hub, tmp_path, model)
    assert (result["error"], bool(result["hint"])) == ("InputError", True)
    assert words in result["message"]


def test_offline_without_a_cached_model_suggests_alternatives(hub: Hub, tmp_path: Path) -> None:
    result = resolve(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "has not been fetched before" in result["message"]
    assert "embedded" in result["hint"]
    assert "folder" in result["hint"]
    assert hub.requests == []


def test_an_unreachable_hub_suggests_alternatives(hub: Hub, tmp_path: Path, port: int) -> None:
    result = resolve(hub, tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert "cannot be reached" in result["message"]
    assert "embedded" in result["hint"]
    assert "folder" in result["hint"]


def test_a_silent_hub_times_out(hub: Hub, tmp_path: Path) -> None:
    hub.silent = True
    child = start(hub, tmp_path, HF_HUB_ETAG_TIMEOUT="1")
    try:
        result = json.loads(child.communicate(timeout=PATIENCE_S)[0])
    finally:
        child.kill()
        child.communicate()
    assert "embedded" in result["hint"]


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Please log in to this network</html>",
        b"[]",
        json.dumps({"id": "org/model", "sha": "../../elsewhere", "siblings": []}).encode(),
    ],
)
def test_a_server_that_is_not_the_hub_is_refused(hub: Hub, tmp_path: Path, answer: bytes) -> None:
    hub.about = answer
    result = resolve(hub, tmp_path)
    assert result["error"] == "FledgeError"
    assert "embedded" in result["hint"]


@pytest.mark.parametrize("content", ["{}", "[]", '{"revisions": [], "files": []}', "cut of"])
def test_a_damaged_record_is_rewritten(hub: Hub, tmp_path: Path, content: str) -> None:
    repository = tmp_path / "hub" / "models--org--model"
    repository.mkdir(parents=True)
    (repository / "fledge.json").write_text(content)
    assert resolve(hub, tmp_path)["error"] == ""
    assert json.loads((repository / "fledge.json").read_text())["revisions"] == {"main": "a" * 40}


def test_an_unwritable_cache_is_an_error(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    result = resolve(hub, tmp_path)
    assert result["error"] == "FledgeError"
    assert result["hint"]


def test_a_file_above_the_size_limit_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.linked_size = 60 * 10**9  # above the limit of the Hub's client
    result = resolve(hub, tmp_path)
    assert result["error"] == "FledgeError"
    assert result["hint"]


def test_too_little_disk_space_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.sizes[WEIGHTS] = 10**16
    result = resolve(hub, tmp_path)
    assert "not enough space" in result["message"]
    assert "HF_HOME" in result["hint"]
    assert not hub.content_requests(WEIGHTS)


def test_without_safetensors_nothing_is_fetched(hub: Hub, tmp_path: Path) -> None:
    del hub.files[WEIGHTS], hub.files["other.safetensors"]
    assert "no safetensors weights" in resolve(hub, tmp_path)["message"]
    assert not hub.content_requests("config.json")


def test_code_is_refused_before_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files["config.json"] = json.dumps({**CONFIG, "auto_map": {"AutoModel": "modeling.Evil"}}).encode()
    assert "auto_map" in resolve(hub, tmp_path)["message"]
    assert not hub.content_requests(WEIGHTS)
    assert not hub.content_requests("modeling.py")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": None}, "has no config.json"),
        ({"config.json": None, "tokenizer.json": None, "README.md": None}, "has no config.json"),
        ({"config.json": {**CONFIG, "architectures": ["BertForMaskedLM"]}}, "does not generate text"),
        ({"adapter_config.json": {}, WEIGHTS: None}, "an adapter"),
    ],
)
def test_an_unusable_model_is_refused_before_weights_are_fetched(
    hub: Hub, tmp_path: Path, files: dict[str, Any], words: str
) -> None:
    for name, content in files.items():
        if content is None:
            del hub.files[name]
        else:
            hub.files[name] = json.dumps(content).encode()
    result = resolve(hub, tmp_path)
    assert words in result["message"]
    assert result["hint"]
    assert not hub.content_requests(WEIGHTS)


def test_only_shards_in_the_index_are_fetched(hub: Hub, tmp_path: Path) -> None:
    del hub.files[WEIGHTS]
    parts = {f"part-{number}.safetensors": dict(list(tensors().items())[number::2]) for number in range(2)}
    hub.files |= {name: save(part) for name, part in parts.items()}
    weight_map = {name: file for file, part in parts.items() for name in part}
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    assert resolve(hub, tmp_path)["parameters"] == PARAMETERS
    assert not hub.content_requests("other.safetensors")


def test_a_single_file_is_preferred_to_shards(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"wte": "other.safetensors"}}).encode()
    assert resolve(hub, tmp_path)["parameters"] == PARAMETERS
    assert not hub.content_requests("other.safetensors")


def test_concurrent_downloads_fetch_weights_once(hub: Hub, tmp_path: Path) -> None:
    put(hub, LARGE, cut_at=SHARE, stall=True)
    first = start(hub, tmp_path)
    _until(lambda: any(path.stat().st_size >= CHUNK for path in tmp_path.rglob("*.partial")))
    count = len(hub.content_requests(WEIGHTS, "HEAD"))
    second = start(hub, tmp_path)
    _until(lambda: len(hub.content_requests(WEIGHTS, "HEAD")) > count)
    time.sleep(0.5)  # time for the second process to fetch, or to wait
    hub.released.set()
    results = [json.loads(child.communicate(timeout=PATIENCE_S)[0]) for child in (first, second)]
    assert results[0] == results[1]
    assert results[0]["error"] == ""
    assert [start_of(headers) > 0 for headers in hub.content_requests(WEIGHTS)] == [False, True]
    assert Path(results[0]["path"], WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_two_processes_can_start_together(hub: Hub, tmp_path: Path) -> None:
    children = [start(hub, tmp_path) for _ in range(2)]
    results = [json.loads(child.communicate(timeout=PATIENCE_S)[0]) for child in children]
    assert results[0] == results[1]
    assert results[0]["error"] == ""


@pytest.mark.skipif("FLEDGE_TEST_HUB" not in os.environ, reason="set FLEDGE_TEST_HUB=1 where the Hub can be reached")
@pytest.mark.timeout(1200)
def test_the_real_hub(fledge: Run, tmp_path: Path) -> None:
    """Fetch DialoGPT-small, check it, and get the same tokens from both engines."""
    model = snapshot.resolve("microsoft/DialoGPT-small")
    assert model.architecture == "GPT2LMHeadModel"
    assert len(model.commit) == 40
    assert 120e6 < model.parameters < 170e6
    assert not [name for name in model.files if name.endswith((".bin", ".h5", ".msgpack"))]
    answers = []
    for name in ("openvino", "transformers"):
        engine = selection.start(EngineSettings(engine=name, state=str(tmp_path)), model)
        try:
            answers.append(
                generate(engine, ["Does money buy happiness?"], GenerationParams(max_tokens=32))[0].token_ids
            )
        finally:
            engine.close()
    assert answers[0] == answers[1]
    done = fledge("experiment", "--model", "microsoft/DialoGPT-small", "--limit", "4", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["failed"] == 0


def start_of(headers: dict[str, str]) -> int:
    """Return the first byte of a range request."""
    return int(headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


def _until(condition: Any, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
