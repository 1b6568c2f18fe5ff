"""Truncated, inconsistent and unsupported GGUF files are refused before anything else opens them."""

import contextlib
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.core.errors import InputError
from fledge.models import gguf_header, snapshot
from fledge.models.gguf import convert
from fledge.models.gguf_header import read_header
from tests.models.gguf_files import HIDDEN, LAYERS, TOKENS, TYPES, Part, Raw, arrays, encode, metadata, parts

Content = Callable[[], bytes]

TENSORS = parts(arrays())
GOOD = encode(metadata(), TENSORS)
HEADER_BYTES = len(GOOD) - sum(len(part.content) for part in TENSORS)


def fields(**changes: Any) -> Content:
    return lambda: encode(metadata(**changes), TENSORS)


def add(key: str, value: Any) -> Content:
    return lambda: encode(metadata() | {key: value}, TENSORS)


def override(**values: Any) -> Content:
    return lambda: encode(metadata(), TENSORS, **values)


def tensor(which: str, **changes: Any) -> Content:
    return lambda: encode(metadata(), [part._replace(**changes) if part.name == which else part for part in TENSORS])


def numbers(name: str, value: float) -> Content:
    def content() -> bytes:
        found = arrays()
        found[name].reshape(-1)[7] = value
        return encode(metadata(), parts(found))

    return content


def long_text(length: int, content: bytes = b"") -> Raw:
    return Raw(struct.pack("<IQ", 8, length) + content)


def long_array(kind: int, length: int, content: bytes = b"") -> Raw:
    return Raw(struct.pack("<IIQ", 9, kind, length) + content)


EMBEDDED, NORM = "token_embd.weight", "blk.0.attn_norm.weight"
CASES: dict[str, tuple[Content, str]] = {
    "an empty file": (lambda: b"", "is truncated in its magic number"),
    "another magic": (override(magic=b"GGML"), "is not a GGUF file: it starts with b'GGML'"),
    "version 1": (override(version=1), "version 1, which is not one of"),
    "a big-endian file": (override(version=3 << 24), "big-endian"),
    "no tensors": (lambda: encode(metadata(), []), "number of tensors 0"),
    "2^63 tensors": (override(tensor_count=2**63), "number of tensors 9223372036854775808"),
    "one tensor too many": (override(tensor_count=len(TENSORS) + 1), "not printable|truncated|more than 1024"),
    "2^63 fields": (override(field_count=2**63), "number of metadata fields 9223372036854775808"),
    "one field too many": (override(field_count=len(metadata()) + 1), "more than 1024|is not"),
    "a duplicate field": (
        lambda: GOOD.replace(b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.eos_token_id"),
        "metadata field 'tokenizer.ggml.eos_token_id', which is duplicated",
    ),
    "a string of 2^60 bytes": (add("x", long_text(2**60)), "length of x 1152921504606846976"),
    "a string beyond the file": (add("x", long_text(1_000_000)), "truncated|is not"),
    "a string that is not UTF-8": (add("x", long_text(2, b"\xff\xfe")), "x b'.xff.xfe', which is not UTF-8"),
    "a key of 2,000 characters": (add("k" * 2000, 1), "length of the key of metadata field"),
    "a key that clears the screen": (add("\x1b[2J", 1), "is empty or not printable"),
    "an array of 2^60 items": (add("x", long_array(4, 2**60)), "length of x 1152921504606846976"),
    "an array beyond the file": (add("x", long_array(8, 900_000)), "truncated|more than"),
    "an array of arrays": (add("x", long_array(9, 1)), "type of x 9"),
    "an unknown type of field": (add("x", Raw(struct.pack("<I", 13))), "type of x 13"),
    "neither true nor false": (add("x", Raw(struct.pack("<IB", 7, 2))), "which is not true or false"),
    "an alignment of 0": (add("general.alignment", 0), "general.alignment 0, which is not a power of two"),
    "an alignment of 24": (add("general.alignment", 24), "general.alignment 24"),
    "an alignment of 2^31": (add("general.alignment", 2**31), "general.alignment 2147483648"),
    "an alignment as string": (add("general.alignment", "32"), "general.alignment '32'"),
    "no dimensions": (tensor(NORM, dimensions=()), f"number of dimensions of {NORM} 0"),
    "five dimensions": (tensor(NORM, dimensions=(1,) * 5), f"number of dimensions of {NORM} 5"),
    "a dimension of 0": (tensor(NORM, dimensions=(0,)), rf"dimensions of {NORM} \[0\]"),
    "a dimension of 2^63": (tensor(NORM, dimensions=(2**63, 2)), f"dimensions of {NORM}"),
    "dimensions that overflow": (tensor(NORM, dimensions=(2**32, 2**32)), f"dimensions of {NORM}"),
    "part of a block": (tensor(EMBEDDED, type=8, dimensions=(250, 10)), "are not whole blocks of 32"),
    "an unknown type": (tensor(NORM, type=999), f"type of {NORM} 999, which is not one of F32"),
    "an unsupported type": (tensor(NORM, type=10), f"type of {NORM} 'Q2_K', which is not one of F32"),
    "an offset beyond the file": (tensor(NORM, offset=2**62), f"offset of {NORM} 4611686018427387904"),
    "an offset that overlaps": (tensor("output_norm.weight", offset=0), "output_norm.weight 0, which should be"),
    "an unaligned offset": (tensor(NORM, offset=3), f"offset of {NORM} 3"),
    "a duplicate tensor": (tensor(NORM, name=EMBEDDED), "tensor 'token_embd.weight', which is duplicated"),
    "a tensor without name": (tensor(NORM, name=""), "is empty or not printable"),
    "a missing tensor": (lambda: encode(metadata(), TENSORS[:-1]), "lacks the tensor blk.1.ffn_down.weight"),
    "an unexpected tensor": (
        lambda: encode(metadata(), [*TENSORS, Part("blk.7.extra", (1,), 0, bytes(4))]),
        "tensors that its architecture does not have: 'blk.7.extra'",
    ),
    "fewer layers than tensors": (fields(block_count=1), "tensors that its architecture does not have"),
    "more layers than tensors": (fields(block_count=3), "lacks the tensor blk.2"),
    "a shape of another model": (fields(embedding_length=128), r"of shape \[272, 256\], not \[272, 128\]"),
    "a quantised vector": (
        tensor(NORM, type=8, content=bytes(HIDDEN // 32 * 34)),
        f"the vector {NORM} of type Q8_0",
    ),
    "NaN in the weights": (numbers("model.norm.weight", np.nan), "output_norm.weight contains NaN or infinity"),
    "infinite weights": (numbers("model.embed_tokens.weight", np.inf), "token_embd.weight contains NaN or infinity"),
    "another architecture": (lambda: encode(metadata("gemma3"), TENSORS), "= 'gemma3', which is not one of llama"),
    "no architecture": (fields(architecture=None), "has no general.architecture"),
    "an architecture as number": (fields(architecture=5), "general.architecture = 5, which must be a string"),
    "a mixture of experts": (add("llama.expert_count", 8), "llama.expert_count = 8"),
    "scaled positions": (add("llama.rope.scaling.type", "yarn"), "llama.rope.scaling.type = 'yarn'"),
    "half of a head rotated": (add("llama.rope.dimension_count", 8), "llama.rope.dimension_count = 8"),
    "a field that changes the output": (add("llama.logit_scale", 2.0), "llama.logit_scale = 2.0"),
    "a shard of a model": (add("split.count", 3), "split.count = 3"),
    "no heads": (fields(head_count=0), "llama.attention.head_count = 0, which must be an integer from 1"),
    "heads that do not divide": (fields(head_count_kv=3), "head_count_kv = 3, which does not divide 16"),
    "heads as string": (fields(head_count="16"), "llama.attention.head_count = '16'"),
    "heads for each layer": (fields(head_count_kv=[4] * LAYERS), "llama.attention.head_count_kv = "),
    "no layers": (fields(block_count=0), "llama.block_count = 0"),
    "a billion layers": (fields(block_count=10**9), "llama.block_count = 1000000000"),
    "no context": (fields(context_length=None), "has no llama.context_length"),
    "an epsilon of NaN": (
        fields(layer_norm_rms_epsilon=float("nan")),
        "layer_norm_rms_epsilon = nan, which must be a positive number",
    ),
    "a frequency of 0": (fields(freq_base=0.0), "llama.rope.freq_base = 0.0"),
    "another vocabulary size": (add("llama.vocab_size", 5), "vocab_size = 5, which is not the number of tokens"),
    "SentencePiece": (fields(model="llama"), "tokenizer.ggml.model = 'llama', which is not 'gpt2'"),
    "an unknown pre-tokenizer": (fields(pre="other"), "tokenizer.ggml.pre = 'other', which is not one of gpt-2"),
    "no pre-tokenizer": (fields(pre=None), "has no tokenizer.ggml.pre"),
    "no tokens": (fields(tokens=None), "has no tokenizer.ggml.tokens"),
    "tokens as numbers": (fields(tokens=[1, 2]), "tokenizer.ggml.tokens = "),
    "a duplicate token": (fields(tokens=[*TOKENS[:-1], "hell"]), "the token 'hell' twice"),
    "an empty token": (fields(tokens=[*TOKENS[:-1], ""]), "token 271 of 0 characters"),
    "a token of 2,000 characters": (fields(tokens=[*TOKENS[:-1], "a" * 2000]), "token 271 of 2000 characters"),
    "one token type too few": (fields(token_type=TYPES[:-1]), "271 items in tokenizer.ggml.token_type for 272 tokens"),
    "an unknown type of token": (fields(token_type=[*TYPES[:-1], 9]), "token type 9"),
    "a merge of unknown tokens": (fields(merges=["h e", "q q"]), "merge 1, 'q q', with an unknown token"),
    "a merge of three": (fields(merges=["h e l"]), "merge 0, 'h e l'"),
    "no merges": (fields(merges=None), "has no tokenizer.ggml.merges"),
    "an end token outside the vocabulary": (fields(eos_token_id=5000), "tokenizer.ggml.eos_token_id = 5000"),
    "a missing bos token": (
        lambda: encode(metadata(bos_token_id=None) | {"tokenizer.ggml.add_bos_token": True}, TENSORS),
        "adds a bos token but has no tokenizer.ggml.bos_token_id",
    ),
    "a template as number": (fields(chat_template=5), "tokenizer.chat_template = 5, which must be a string"),
    "a template of megabytes": (fields(chat_template="x" * 2_000_000), "length of tokenizer.chat_template 2000000"),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", CASES)
def test_an_invalid_file_is_refused(case: str, tmp_path: Path) -> None:
    content, words = CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content())
    with pytest.raises(InputError, match=words) as caught:
        snapshot.resolve(str(path), tmp_path)
    assert str(path) in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500 + len(str(path))
    assert caught.value.hint
    assert not list(tmp_path.glob("models/*/snapshot"))


@pytest.mark.parametrize("fraction", [0.0001, 0.001, *(part / 16 for part in range(1, 16)), 0.999, 0.999999])
def test_a_truncated_file_is_refused(fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GOOD[: int(len(GOOD) * fraction)])
    with pytest.raises(InputError, match=r"is truncated|do not fit in the file"):
        snapshot.resolve(str(path), tmp_path)


def test_a_truncated_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for size in range(0, HEADER_BYTES, 97):
        path.write_bytes(GOOD[:size])
        with pytest.raises(InputError, match=r"is truncated|do not fit in the file"):
            read_header(path, "model")


@pytest.mark.timeout(60)
def test_a_header_at_the_limits_is_refused_quickly(tmp_path: Path) -> None:
    """The largest header, of the items that are slowest to read."""
    text = struct.pack("<Q", 1) + b"a"
    count = gguf_header.MAX_HEADER_BYTES // len(text) // 4
    crowd = {f"x{number}": long_array(8, count, text * count) for number in range(6)}
    path = tmp_path / "model.gguf"
    path.write_bytes(encode(crowd, TENSORS))
    began = time.process_time()
    with pytest.raises(InputError, match="makes the header larger than"):
        snapshot.resolve(str(path), tmp_path)
    assert time.process_time() - began < 20


SMALL = encode(metadata(block_count=1), parts(arrays(layers=1)))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 24 + HEADER_BYTES), st.sampled_from([0, 1, 2, 8, 9, 0x7F, 0x80, 0xFE, 0xFF])),
        min_size=1,
        max_size=4,
    ),
    cut=st.none() | st.integers(0, len(SMALL)),
)
def test_a_mutated_header_is_refused_or_converted(
    changes: list[tuple[int, int]], cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(SMALL)
    for place, byte in changes:
        content[place] = byte
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    path = folder / "model.gguf"
    path.write_bytes(content[:cut])
    with contextlib.suppress(InputError):
        convert(path, "model", folder / "models")
