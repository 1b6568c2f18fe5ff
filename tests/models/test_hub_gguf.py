"""GGUF files on the Hub: one file is fetched at a pinned commit and converted like a local one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fledge.models import snapshot
from tests.models.gguf_files import write_gguf
from tests.models.hub_server import Hub, serve
from tests.models.test_hub import repository_files, resolve, start_of

pytestmark = pytest.mark.slow


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub(repository_files())) as running:
        yield running


GGUF = "sub/model.gguf"


def test_one_gguf_file_is_fetched_and_converted(hub: Hub, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    hub.files[GGUF] = (tmp_path / "model.gguf").read_bytes()
    first = resolve(hub, tmp_path, f"org/model/{GGUF}")
    assert (first["error"], first["source"], first["commit"]) == ("", f"org/model/{GGUF}", "a" * 40)
    assert first["digest"] == snapshot.resolve(str(tmp_path / "model.gguf"), tmp_path).digest
    assert {path.split("/", 5)[5] for _, path, _ in hub.requests if "/resolve/" in path} == {GGUF}
    hub.requests.clear()
    hub.commits["main"] = "b" * 40
    assert resolve(hub, tmp_path, f"org/model/{GGUF}") == first
    assert resolve(hub, tmp_path, f"org/model/{GGUF}@{'a' * 40}", HF_HUB_OFFLINE="1") == first
    assert hub.requests == []


def test_a_revision_is_pinned_to_one_commit_for_all_files(hub: Hub, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    hub.files[GGUF] = (tmp_path / "model.gguf").read_bytes()
    assert resolve(hub, tmp_path)["commit"] == "a" * 40
    hub.commits |= {"main": "b" * 40, "old": "a" * 40}
    assert resolve(hub, tmp_path, f"org/model/{GGUF}")["commit"] == "a" * 40
    hub.commits["v2"] = "b" * 40
    assert resolve(hub, tmp_path, f"org/model/{GGUF}@v2")["commit"] == "b" * 40


def test_an_interrupted_gguf_download_resumes(hub: Hub, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    hub.files[GGUF], hub.cut_at = (tmp_path / "model.gguf").read_bytes(), 0.9
    assert resolve(hub, tmp_path, f"org/model/{GGUF}")["error"] == ""
    assert [start_of(headers) > 0 for headers in hub.content_requests(GGUF)] == [False, True]


def test_a_broken_gguf_on_the_hub_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files[GGUF] = b"GGUF\x03"
    result = resolve(hub, tmp_path, f"org/model/{GGUF}")
    assert (result["error"], result["message"].startswith(f"org/model/{GGUF} is truncated")) == ("InputError", True)


@pytest.mark.parametrize("name", ["model.gguf", "sub/other.gguf", "../model.gguf", "sub//model.gguf"])
def test_a_gguf_missing_on_the_hub_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.files[GGUF] = b""
    result = resolve(hub, tmp_path, f"org/model/{name}")
    assert result["error"] == "InputError"
    assert "no file" in result["message"]
    assert result["hint"] == f"--model org/model/{GGUF}" or "org/name/FILE.gguf" in result["hint"]


def test_a_repository_of_ggufs_asks_for_one_file(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"README.md": b"", "b.gguf": b"", "a.gguf": b""}
    result = resolve(hub, tmp_path)
    assert "GGUF files: 'a.gguf', 'b.gguf'" in result["message"]
    assert result["hint"] == "name one: --model org/model/a.gguf"
