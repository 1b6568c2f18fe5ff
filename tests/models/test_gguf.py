"""GGUF files are converted once to snapshots with the same numbers and config."""

import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import load_file

from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Message
from fledge.engines.prompt_encoder import PromptEncoder
from fledge.engines.text import TextConfig
from fledge.models import snapshot
from fledge.models.chat_template import ChatTemplate, read_template
from tests.engines.test_prompt_encoder import encode_all
from tests.models.gguf_files import (
    HEAD,
    HEADS,
    HIDDEN,
    TOKENS,
    Part,
    arrays,
    blocks,
    encode,
    metadata,
    parts,
    write_gguf,
)

KINDS = ("llama", "qwen2", "qwen3")


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_file_becomes_a_snapshot(kind: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", kind)
    model = snapshot.resolve(str(path), tmp_path)
    assert model.source == str(path)
    assert (model.architecture, model.licence) == (
        {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind],
        "apache-2.0",
    )
    assert (model.vocabulary, model.context, model.end_tokens) == (len(TOKENS), 128, (2,))
    found = load_file(model.path / "model.safetensors")
    expected = arrays(kind)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    config = read_json(model.path / "config.json")
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"], config["head_dim"]) == (1, 2, HEAD)
    assert config["rms_norm_eps"] == 1e-5
    assert read_json(model.path / "generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2}
    template = read_template(model.path)
    assert template
    assert ChatTemplate(*template).render([Message("user", "hello")]) == "<|im_start|>hello<|im_end|>"


def test_paths_may_be_relative_to_home_or_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    digests = {snapshot.resolve(name, tmp_path).digest for name in ("model.gguf", "./model.gguf", "~/model.gguf")}
    assert len(digests) == 1


def test_a_separate_output_matrix_becomes_an_untied_head(tmp_path: Path) -> None:
    numbers = arrays() | {"lm_head.weight": np.ones((len(TOKENS), HIDDEN), np.float32)}
    (tmp_path / "model.gguf").write_bytes(encode(metadata(), parts(numbers)))
    model = snapshot.resolve(str(tmp_path / "model.gguf"), tmp_path)
    assert read_json(model.path / "config.json")["tie_word_embeddings"] is False
    assert (load_file(model.path / "model.safetensors")["lm_head.weight"] == 1).all()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"])
def test_quantised_matrices_become_float32(kind: str, tmp_path: Path) -> None:
    stored = GGMLQuantizationType[kind]
    numbers = arrays()
    plain = parts(numbers)
    replaced = [
        blocks(part.name, tuple(reversed(part.dimensions)), stored) if len(part.dimensions) > 1 else part
        for part in plain
    ]
    (tmp_path / "model.gguf").write_bytes(encode(metadata(), replaced))
    model = snapshot.resolve(str(tmp_path / "model.gguf"), tmp_path)
    found = load_file(model.path / "model.safetensors")
    embedded = _numbers(replaced[0])
    assert found["model.embed_tokens.weight"].dtype == np.float32
    assert np.array_equal(found["model.embed_tokens.weight"], embedded)
    query = next(part for part in replaced if part.name == "blk.0.attn_q.weight")
    interleaved = _numbers(query).reshape(HEADS, HEAD // 2, 2, HIDDEN)
    halves = found["model.layers.0.self_attn.q_proj.weight"].reshape(HEADS, 2, HEAD // 2, HIDDEN)
    assert np.array_equal(halves.swapaxes(1, 2), interleaved)
    assert read_json(model.path / "config.json")["dtype"] == "float32"


def _numbers(part: Part) -> npt.NDArray[np.float32]:
    rows = part.dimensions[1]
    raw = np.frombuffer(part.content, np.uint8).reshape(rows, -1)
    return dequantize(raw, GGMLQuantizationType(part.type))


@pytest.mark.parametrize(("kind", "name", "dtype"), [("F16", "float16", "<f2"), ("BF16", "bfloat16", "<u2")])
def test_half_precision_is_kept(kind: str, name: str, dtype: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    plain = parts(arrays())
    types = {part.name: kind for part in plain if len(part.dimensions) > 1}
    stored = parts(arrays(), types=types)
    (tmp_path / "model.gguf").write_bytes(encode(metadata(), stored))
    model = snapshot.resolve(str(tmp_path / "model.gguf"), tmp_path)
    assert read_json(model.path / "config.json")["dtype"] == name
    with safe_open(model.path / "model.safetensors", framework="numpy") as file:  # type: ignore[no-untyped-call]
        assert file.get_slice("model.embed_tokens.weight").get_dtype() == kind
        assert file.get_slice("model.norm.weight").get_dtype() == "F32"
    content = (model.path / "model.safetensors").read_bytes()
    assert stored[0].content in content


def test_a_damaged_conversion_is_repeated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="fledge")
    path = write_gguf(tmp_path / "model.gguf")
    first = snapshot.resolve(str(path), tmp_path)
    assert "converting" in caplog.text
    caplog.clear()
    again = snapshot.resolve(str(path), tmp_path)
    assert (again, caplog.text) == (first, "")
    with (first.path / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    assert snapshot.resolve(str(path), tmp_path).digest == first.digest
    assert "converting" in caplog.text


def test_a_replaced_file_is_another_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    first = snapshot.resolve(str(path), tmp_path)
    write_gguf(path, context_length=64)
    assert snapshot.resolve(str(path), tmp_path).context == 64
    assert first.path.is_dir()


def test_concurrent_conversions_make_one_folder(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(snapshot.resolve(str(path), tmp_path).digest)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len([item for item in (tmp_path / "models").iterdir() if item.is_dir()]) == 1


def test_remains_of_a_killed_conversion_are_removed(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    made = snapshot.resolve(str(path), tmp_path).path.parent
    left = made.with_suffix(".part")
    made.rename(left)
    (left / "snapshot" / "model.safetensors").write_bytes(b"cut off")
    assert snapshot.resolve(str(path), tmp_path).path.parent == made
    assert not left.exists()


def test_a_conversion_needs_little_memory(tmp_path: Path) -> None:
    """300 MB of float32 in a process that grows by less than half of that."""
    wide = 50_048
    shapes = {"ffn_gate": (wide, HIDDEN), "ffn_up": (wide, HIDDEN), "ffn_down": (HIDDEN, wide)}
    tensors = [
        blocks(part.name, shapes[stem], GGMLQuantizationType.Q4_0)
        if (stem := part.name.split(".")[-2]) in shapes
        else part
        for part in parts(arrays())
    ]
    (tmp_path / "model.gguf").write_bytes(encode(metadata(feed_forward_length=wide), tensors))
    program = """
import resource, sys
from pathlib import Path
from fledge.models import snapshot
from fledge.models.gguf import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(Path(sys.argv[1]), "model", Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "model.gguf"), str(tmp_path / "models")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (weights,) = tmp_path.glob("models/*/snapshot/model.safetensors")
    assert weights.stat().st_size > 300e6
    assert int(done.stdout) < 150e3


LLAMA_3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_factors(head: int, theta: float, scaling: dict[str, float]) -> npt.NDArray[np.float32]:
    """Return the factors that llama.cpp's converter computes."""
    low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
    high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
    factors = []
    for frequency in 1.0 / theta ** (np.arange(0, head, 2) / head):
        length = 2 * np.pi / frequency
        if length < high:
            factors.append(1.0)
        elif length > low:
            factors.append(scaling["factor"])
        else:
            smooth = (scaling["original_max_position_embeddings"] / length - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, np.float32)


def with_factors(path: Path, factors: npt.NDArray[np.float32], theta: float) -> Path:
    heads, head = 2, HIDDEN // 2
    numbers = {
        name: np.resize(item, (heads * head, HIDDEN)) if ".k_proj" in name or ".v_proj" in name else item
        for name, item in arrays().items()
    }
    fields = metadata() | {
        "llama.rope.freq_base": theta,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": heads,
    }
    tensors = [*parts(numbers), Part("rope_freqs.weight", (len(factors),), 0, factors.tobytes())]
    path.write_bytes(encode(fields, tensors))
    return path


@pytest.mark.parametrize(
    "scaling",
    [
        LLAMA_3,
        LLAMA_3 | {"factor": 8.0},
        LLAMA_3 | {"factor": 16.0, "low_freq_factor": 2.0, "high_freq_factor": 6.0},
        LLAMA_3 | {"original_max_position_embeddings": 4096},
    ],
)
def test_llama_3_scaling_is_fitted_from_its_factors(scaling: dict[str, float], tmp_path: Path) -> None:
    expected = rope_factors(HIDDEN // 2, 500_000.0, scaling)
    path = with_factors(tmp_path / "model.gguf", expected, 500_000.0)
    found = read_json(snapshot.resolve(str(path), tmp_path).path / "config.json")["rope_scaling"]
    assert found.pop("rope_type") == "llama3"
    assert np.allclose(rope_factors(HIDDEN // 2, 500_000.0, found), expected, rtol=1e-4)
    if scaling["original_max_position_embeddings"] == 8192 and scaling["low_freq_factor"] == 1:
        assert found == scaling


def test_factors_of_1_mean_no_scaling(tmp_path: Path) -> None:
    path = with_factors(tmp_path / "model.gguf", np.ones(HIDDEN // 4, np.float32), 10_000.0)
    assert read_json(snapshot.resolve(str(path), tmp_path).path / "config.json")["rope_scaling"] is None


def test_other_factors_are_refused(tmp_path: Path) -> None:
    factors = np.linspace(1, 4, HIDDEN // 4, dtype=np.float32)
    path = with_factors(tmp_path / "model.gguf", factors, 10_000.0)
    with pytest.raises(InputError, match=r"rope_freqs\.weight from 1 to 4"):
        snapshot.resolve(str(path), tmp_path)


def test_a_folder_of_ggufs_asks_for_one_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "b.gguf")
    write_gguf(tmp_path / "a.gguf")
    with pytest.raises(FledgeError, match=r"'a\.gguf', 'b\.gguf'") as caught:
        snapshot.resolve(str(tmp_path))
    assert caught.value.hint == f"name one: --model {tmp_path}/a.gguf"


@pytest.mark.parametrize(
    "name", ["nothing.gguf", "no/such/file.gguf", "/no/such/file.gguf", "~/nothing.gguf", "tests/a/b.gguf"]
)
def test_a_missing_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no").mkdir()
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match="there is no file") as caught:
        snapshot.resolve(name)
    assert "org/name/FILE.gguf" in caught.value.hint


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="is not a GGUF file") as caught:
        snapshot.resolve(str(tmp_path / "model.safetensors"))
    assert "a folder" in caught.value.hint


def test_a_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(InputError, match="not a regular file"):
        snapshot.resolve(str(tmp_path / "model.gguf"))


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_template_that_loops_is_stopped(tmp_path: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(InputError, match="chat template cannot be rendered"):
        snapshot.resolve(str(write_gguf(tmp_path / "endless.gguf", chat_template=endless)), tmp_path)
    sometimes = f"{{% if messages[0].content == 'hello' %}}{endless}{{% endif %}}"
    path = write_gguf(tmp_path / "model.gguf", chat_template=sometimes)
    model = snapshot.resolve(str(path), tmp_path)
    encoder = PromptEncoder(TextConfig.of(model, (model.path / "tokenizer.json").read_text()))
    with closing(encoder):
        (found,) = encode_all(encoder, [[Message("user", "hello")]])
    assert "took too much time" in str(found)
