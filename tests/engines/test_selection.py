"""The choice of an engine, its reason, and the accuracy of int8."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DogeConfig

from fledge.core.digests import file_digest
from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.installation import install_command
from fledge.core.settings import load
from fledge.core.types import EngineInfo
from fledge.engines import selection
from fledge.engines.engine import generate
from fledge.engines.machine import has_gpu
from fledge.engines.openvino_files import REVISION
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot
from tests.models.tiny_models import write_model

DIGEST = snapshot.resolve("embedded").digest[:16]


def test_the_choice_has_a_reason() -> None:
    choice = selection.choose(EngineSettings(device="cpu"))
    assert choice == ("openvino", "cpu", "continuous batching on the CPU")
    assert selection.choose(EngineSettings(engine="transformers", device="cpu")).reason == "as set"
    assert selection.choose(EngineSettings(engine="scripted")).name == "scripted"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "transformers", "mode": "fast"}, "only the engine openvino has a fast mode"),
        ({"engine": "remote"}, "needs a URL"),
    ],
)
def test_incompatible_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        selection.choose(EngineSettings(**settings))
    assert caught.value.hint


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_a_missing_gpu_is_refused() -> None:
    for engine in ("auto", "transformers"):
        with pytest.raises(InputError, match="no NVIDIA GPU"):
            selection.choose(EngineSettings(engine=engine, device="gpu"))


@pytest.mark.parametrize(
    ("name", "value"), [("engine", "tgi"), ("mode", "quick"), ("fast_limit", "0.5"), ("cache_gb", "-1")]
)
def test_an_invalid_setting_is_named(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=name.replace("_", ".")):
        load(EngineSettings, {name: value}, folder=tmp_path, environ={})


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (["openvino_genai"], "transformers: OpenVINO, which is faster on a CPU, is not installed"),
        (["openvino_genai", "torch"], f"MissingExtraError: {install_command('models,openvino')}"),
    ],
)
def test_an_engine_that_is_not_installed_is_not_chosen(hidden: list[str], expected: str) -> None:
    program = f"""
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hidden
from fledge.core.errors import FledgeError
from fledge.engines.selection import choose
from fledge.engines.settings import EngineSettings
try:
    choice = choose(EngineSettings(device="cpu"))
    print(f"{{choice.name}}: {{choice.reason}}")
except FledgeError as error:
    print(f"{{type(error).__name__}}: {{error.hint}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def start(cache: Path, **settings: Any) -> EngineInfo:
    engine = selection.start(EngineSettings(cache=str(cache), **settings), snapshot.resolve("embedded"))
    engine.close()
    return engine.info


@pytest.mark.slow
def test_mode_auto_uses_int8_only_within_the_measured_limit(engine_cache: Path, tmp_path: Path) -> None:
    info = start(engine_cache.parent, mode="fast")
    state = tmp_path  # a copy, since other tests use the cache
    shutil.copytree(engine_cache, state / "engines", ignore=shutil.ignore_patterns("*.part"))
    gate_file = state / "engines" / f"{DIGEST}-fast-{REVISION}" / "gate.json"
    gate = json.loads(gate_file.read_text())
    assert 0.9 < gate["perplexity_ratio"] < 1.1
    assert gate["perplexity_ratio"] == pytest.approx(gate["perplexity_fast"] / gate["perplexity_exact"])
    assert 0.5 < gate["token_agreement"] <= 1
    assert info.mode == "fast"
    assert f"perplexity by {gate['perplexity_ratio']:.4f}" in info.reason
    assert start(state, mode="auto").mode == "fast"
    gate_file.write_text(json.dumps({**gate, "perplexity_ratio": 1.5}))
    digests = gate_file.with_name("files.json")
    known = {**json.loads(digests.read_text()), gate_file.name: file_digest(gate_file)}
    digests.write_text(json.dumps(known))
    beyond = start(state, mode="auto")
    assert beyond.mode == "exact"
    assert "1.5000" in beyond.reason
    assert "the limit is 1.02" in beyond.reason


@pytest.mark.slow
def test_an_architecture_unknown_to_openvino_runs_on_transformers(tmp_path: Path) -> None:
    folder = write_model("gpt2", tmp_path / "model")
    torch.manual_seed(0)
    shape = {"vocab_size": 2048, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    AutoModelForCausalLM.from_config(DogeConfig(**shape, intermediate_size=128, eos_token_id=0)).save_pretrained(folder)
    model = snapshot.resolve(str(folder))
    assert model.architecture == "DogeForCausalLM"
    progress: list[str] = []
    engine = selection.start(EngineSettings(cache=str(tmp_path), device="cpu"), model, progress.append)
    try:
        assert engine.info.name == "transformers"
        assert "OpenVINO cannot export" in engine.info.reason
        assert generate(engine, ["Why?"], GenerationParams(max_tokens=4))[0].completion_tokens
    finally:
        engine.close()
    assert any("about" in line and "s" in line for line in progress)
    with pytest.raises(FledgeError, match="OpenVINO cannot export") as caught:
        selection.start(EngineSettings(cache=str(tmp_path), engine="openvino"), model)
    assert caught.value.hint == "use --engine transformers"
    assert not list((tmp_path / "engines").glob("*.part"))


@pytest.mark.slow
def test_concurrent_exports_run_once_and_remove_leftovers(tmp_path: Path) -> None:
    leftover = tmp_path / "engines" / f"{DIGEST}-exact-{REVISION}.part"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("")
    program = f"""
from fledge.engines import selection
from fledge.models import snapshot
from fledge.engines.settings import EngineSettings
settings = EngineSettings(engine="openvino", cache={str(tmp_path)!r})
engine = selection.start(settings, snapshot.resolve("embedded"), print)
engine.close()
"""
    children = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted("exporting embedded" in text for text in outputs) == [False, True]
    folders = [path.name for path in (tmp_path / "engines").iterdir() if path.is_dir()]
    assert folders == [f"{DIGEST}-exact-{REVISION}"]
    assert not (tmp_path / "engines" / f"{DIGEST}-exact-{REVISION}" / "half").exists()
