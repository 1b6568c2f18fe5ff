"""Write small GGUF files, valid and invalid."""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

Shapes = dict[str, tuple[int, ...]]
Arrays = dict[str, npt.NDArray[np.float32]]

HIDDEN, FEED_FORWARD, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD = 256, 512, 2, 16, 4, 16
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "1 2", "12 3"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


def alphabet() -> list[str]:
    """Return GPT-2's 256 characters for bytes, in the order of the bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *alphabet(),
    *(merge.replace(" ", "") for merge in MERGES),
    "<tool>",
    "[PAD271]",
]
TYPES = [3, 3, 3, *[1] * (256 + len(MERGES)), 4, 5]


class Raw(NamedTuple):
    """An encoded value, with its type in front."""

    content: bytes


class Part(NamedTuple):
    """A tensor in the file; `offset` overrides the true one."""

    name: str
    dimensions: tuple[int, ...]
    type: int
    content: bytes
    offset: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(reversed(self.dimensions))


def metadata(kind: str = "llama", **changes: Any) -> dict[str, Any]:
    """Return the fields of a small model; `changes` use the last part of a name, and None removes a field."""
    fields: dict[str, Any] = {
        "general.architecture": kind,
        "general.license": "apache-2.0",
        f"{kind}.block_count": LAYERS,
        f"{kind}.context_length": 128,
        f"{kind}.embedding_length": HIDDEN,
        f"{kind}.feed_forward_length": FEED_FORWARD,
        f"{kind}.attention.head_count": HEADS,
        f"{kind}.attention.head_count_kv": KEY_VALUE_HEADS,
        f"{kind}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{kind}.rope.freq_base": 10_000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": TYPES,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }
    for name, value in changes.items():
        fields = {key: value if key.endswith(f".{name}") else kept for key, kept in fields.items()}
    return {key: value for key, value in fields.items() if value is not None}


def shapes(kind: str = "llama", layers: int = LAYERS) -> Shapes:
    """Return the tensor shapes of a small model by snapshot name."""
    wide, narrow = HEADS * HEAD, KEY_VALUE_HEADS * HEAD
    found: Shapes = {"model.embed_tokens.weight": (len(TOKENS), HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(layers):
        before = f"model.layers.{layer}"
        found |= {
            f"{before}.input_layernorm.weight": (HIDDEN,),
            f"{before}.self_attn.q_proj.weight": (wide, HIDDEN),
            f"{before}.self_attn.k_proj.weight": (narrow, HIDDEN),
            f"{before}.self_attn.v_proj.weight": (narrow, HIDDEN),
            f"{before}.self_attn.o_proj.weight": (HIDDEN, wide),
            f"{before}.post_attention_layernorm.weight": (HIDDEN,),
            f"{before}.mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN),
            f"{before}.mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
            f"{before}.mlp.down_proj.weight": (HIDDEN, FEED_FORWARD),
        }
        if kind == "qwen2":
            found |= {
                f"{before}.self_attn.{name}_proj.bias": (rows,)
                for name, rows in zip("qkv", (wide, narrow, narrow), strict=True)
            }
        if kind == "qwen3":
            found |= {f"{before}.self_attn.{name}_norm.weight": (HEAD,) for name in "qk"}
    return found


def arrays(kind: str = "llama", layers: int = LAYERS) -> Arrays:
    """Return random tensors of these shapes."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes(kind, layers).items()}


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def parts(found: Arrays, kind: str = "llama", types: dict[str, str] | None = None) -> list[Part]:
    """Convert tensors of a snapshot as llama.cpp does; `types` by GGUF name, default F32."""
    result = []
    for name, numbers in found.items():
        stem, _, last = name.rpartition(".")
        layer = stem.split(".")[2] if stem.startswith("model.layers.") else ""
        stem = stem.removeprefix(f"model.layers.{layer}.")
        called = f"blk.{layer}.{NAMES[stem]}.{last}" if layer else f"{NAMES[stem]}.{last}"
        if kind == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = HEADS if stem.endswith("q_proj") else KEY_VALUE_HEADS
            halves = numbers.reshape(heads, 2, -1, *numbers.shape[1:])
            stored = halves.swapaxes(1, 2).reshape(numbers.shape)
        else:
            stored = numbers
        number = GGMLQuantizationType[(types or {}).get(called, "F32")]
        content = quantize(stored, number).tobytes()
        result.append(Part(called, tuple(reversed(numbers.shape)), int(number), content))
    return result


def encode(
    fields: dict[str, Any],
    tensors: list[Part],
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    field_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    """Return the bytes of a GGUF file. Keyword arguments override the true values."""
    out = magic + struct.pack("<I", version)
    out += struct.pack("<Q", len(tensors) if tensor_count is None else tensor_count)
    out += struct.pack("<Q", len(fields) if field_count is None else field_count)
    for key, value in fields.items():
        out += _text(key) + _value(value)
    offset = 0
    data = b""
    for tensor in tensors:
        out += _text(tensor.name) + struct.pack("<I", len(tensor.dimensions))
        out += struct.pack(f"<{len(tensor.dimensions)}Q", *tensor.dimensions)
        out += struct.pack("<IQ", tensor.type, offset if tensor.offset is None else tensor.offset)
        data += tensor.content + bytes(-len(tensor.content) % alignment)
        offset = len(data)
    return out + bytes(-len(out) % alignment) + data


def write_gguf(path: Path, kind: str = "llama", types: dict[str, str] | None = None, **changes: Any) -> Path:
    """Write a small random model; `changes` as in `metadata`. Returns `path`."""
    path.write_bytes(encode(metadata(kind, **changes), parts(arrays(kind), kind, types)))
    return path


def blocks(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> Part:
    """Return a random tensor of a block type, with finite scales."""
    block, size = GGML_QUANT_SIZES[kind]
    content = np.random.default_rng(0).integers(0, 256, (math.prod(shape) // block, size), np.uint8)
    scales = {"Q6_K": [size - 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q4_1": [0, 2]}.get(kind.name, [0])
    for place in scales:
        content[:, place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return Part(name, tuple(reversed(shape)), int(kind), content.tobytes())


def _text(text: str | bytes) -> bytes:
    content = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    if isinstance(value, Raw):
        return value.content
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
