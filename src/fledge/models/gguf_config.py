"""Convert a GGUF header to the model's config and the names and shapes of its tensors."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from fledge.core.errors import InputError
from fledge.models.gguf_header import HINT, GgufTensor, Header
from fledge.models.gguf_tokenizer import TokenizerFiles

Values = Callable[[GgufTensor], npt.NDArray[np.float32]]
"""Reads the numbers of a small tensor."""

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# Any other field of the architecture may change the model's output.
FIELDS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size", "tensor_data_layout"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "attention.causal", "rope.freq_base", "rope.dimension_count"),
    *("rope.scaling.type", "rope.scaling.original_context_length", "expert_count", "expert_used_count"),
)
FLOATS = {
    GGMLQuantizationType.F32: "float32",
    GGMLQuantizationType.BF16: "bfloat16",
    GGMLQuantizationType.F16: "float16",
}
ROPE_FACTORS = "rope_freqs.weight"
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
PARTS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
BIASES = {
    name.replace("weight", "bias"): to.replace("weight", "bias") for name, to in PARTS.items() if "norm" not in name
}
NORMS = {"attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight"}


@dataclass(frozen=True)
class ConvertedTensor:
    """A tensor's GGUF and snapshot names. llama.cpp's converter interleaves the halves of each `head` rows (0: no)."""

    gguf: str
    name: str
    shape: tuple[int, ...]
    head: int = 0


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a model."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int


def check_architecture(header: Header) -> None:
    """Raise `InputError` unless the architecture and all its fields are supported."""
    kind = header.text("general.architecture")
    if kind not in ARCHITECTURES:
        raise header.error("general.architecture", f"is not one of {', '.join(ARCHITECTURES)}")
    _check_fields(header, kind)


def read_config(
    header: Header, tokenizer: TokenizerFiles, values: Values
) -> tuple[dict[str, Any], list[ConvertedTensor]]:
    """Return the content of `config.json` and the converted tensors.

    Raises `InputError` for inconsistent sizes, and for missing, unexpected or misshapen tensors.
    """
    kind = header.text("general.architecture")
    sizes = _read_sizes(header, kind, tokenizer)
    theta = header.number(f"{kind}.rope.freq_base", 10_000.0)
    targets = list(_list_tensors(header, kind, sizes))
    _check_tensors(header, targets, rope_factors=kind == "llama")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.feed_forward,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_value_heads,
        "head_dim": sizes.head,
        "hidden_act": "silu",
        "max_position_embeddings": header.integer(f"{kind}.context_length", 1, 100_000_000),
        "rms_norm_eps": _shorten(header.number(f"{kind}.attention.layer_norm_rms_epsilon")),
        "rope_theta": _shorten(theta),
        "rope_scaling": _rope_scaling(header, values, theta, sizes.head),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": "blk.0.attn_output.bias" in header.tensors,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": _dtype(header),
    }
    if kind == "llama":
        config["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    else:
        config["use_sliding_window"] = False
    return config | token_ids(tokenizer), targets


def token_ids(tokenizer: TokenizerFiles) -> dict[str, Any]:
    """Return the token ids for `config.json` and `generation_config.json`."""
    ends = list(tokenizer.ends)
    ids = {
        "bos_token_id": tokenizer.bos if tokenizer.bos >= 0 else None,
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": tokenizer.padding if tokenizer.padding >= 0 else None,
    }
    return {name: value for name, value in ids.items() if value is not None}


def _check_fields(header: Header, kind: str) -> None:
    for key in header.metadata:
        name = key.removeprefix(f"{kind}.")
        if name != key and name not in FIELDS:
            raise header.error(key, "fledge does not know and which may change the model's output")
    if header.integer("split.count", 0, 100_000, default=1) > 1:
        raise header.error("split.count", "makes it one shard of a model: merge all with llama-gguf-split --merge")
    if header.integer(f"{kind}.expert_count", 0, 100_000, default=0):
        raise header.error(f"{kind}.expert_count", "makes it a mixture of experts, which fledge does not support")
    if header.text(f"{kind}.rope.scaling.type", "none") != "none":
        raise header.error(f"{kind}.rope.scaling.type", "is not 'none'; fledge supports only Llama 3's scaling")
    if not header.flag(f"{kind}.attention.causal", default=True):
        raise header.error(f"{kind}.attention.causal", "makes it a model that does not generate text")


def _read_sizes(header: Header, kind: str, tokenizer: TokenizerFiles) -> Sizes:
    hidden = header.integer(f"{kind}.embedding_length", 1, 1 << 20)
    heads = header.integer(f"{kind}.attention.head_count", 1, 1 << 14)
    key_value_heads = header.integer(f"{kind}.attention.head_count_kv", 1, heads, default=heads)
    if heads % key_value_heads:
        raise header.error(f"{kind}.attention.head_count_kv", f"does not divide {heads} heads")
    head = header.integer(f"{kind}.attention.key_length", 1, 1 << 14, default=hidden // heads)
    if head % 2:
        raise header.error(f"{kind}.attention.head_count", f"gives an odd head size, {head}")
    for key in ("attention.value_length", "rope.dimension_count"):
        if header.integer(f"{kind}.{key}", 1, 1 << 14, default=head) != head:
            raise header.error(f"{kind}.{key}", f"is not the size of a head, {head}")
    vocabulary = tokenizer.tokens
    if header.integer(f"{kind}.vocab_size", 1, 1 << 24, default=vocabulary) != vocabulary:
        raise header.error(f"{kind}.vocab_size", f"is not the number of tokens, {vocabulary}")
    return Sizes(
        layers=header.integer(f"{kind}.block_count", 1, 1 << 10),
        hidden=hidden,
        feed_forward=header.integer(f"{kind}.feed_forward_length", 1, 1 << 22),
        heads=heads,
        key_value_heads=key_value_heads,
        head=head,
        vocabulary=vocabulary,
    )


def _list_tensors(header: Header, kind: str, sizes: Sizes) -> Iterator[ConvertedTensor]:
    hidden, wide, narrow = sizes.hidden, sizes.heads * sizes.head, sizes.key_value_heads * sizes.head
    shapes = {
        **dict.fromkeys(("attn_norm", "ffn_norm"), (hidden,)),
        **dict.fromkeys(("attn_q_norm", "attn_k_norm"), (sizes.head,)),
        "attn_q": (wide, hidden),
        **dict.fromkeys(("attn_k", "attn_v"), (narrow, hidden)),
        "attn_output": (hidden, wide),
        **dict.fromkeys(("ffn_gate", "ffn_up"), (sizes.feed_forward, hidden)),
        "ffn_down": (hidden, sizes.feed_forward),
    }
    yield ConvertedTensor("token_embd.weight", "model.embed_tokens.weight", (sizes.vocabulary, hidden))
    yield ConvertedTensor("output_norm.weight", "model.norm.weight", (hidden,))
    if "output.weight" in header.tensors:
        yield ConvertedTensor("output.weight", "lm_head.weight", (sizes.vocabulary, hidden))
    for layer in range(sizes.layers):
        for part, name in _layer_tensors(header, kind).items():
            stem, _, last = part.partition(".")
            shape = shapes[stem][:1] if last == "bias" else shapes[stem]
            head = sizes.head if kind == "llama" and stem in ("attn_q", "attn_k") else 0
            yield ConvertedTensor(f"blk.{layer}.{part}", f"model.layers.{layer}.{name}", shape, head)


def _layer_tensors(header: Header, kind: str) -> dict[str, str]:
    """Return the tensors of a layer. A group has all its biases or none."""
    parts = dict(PARTS)
    if kind == "qwen2":
        return parts | {name: BIASES[name] for name in ("attn_q.bias", "attn_k.bias", "attn_v.bias")}
    if kind == "qwen3":
        parts |= NORMS
    for group in ("attn_", "ffn_") if kind == "llama" else ("attn_",):
        biases = {name: to for name, to in BIASES.items() if name.startswith(group)}
        if any(f"blk.0.{name}" in header.tensors for name in biases):
            parts |= biases
    return parts


def _check_tensors(header: Header, targets: list[ConvertedTensor], *, rope_factors: bool) -> None:
    for target in targets:
        tensor = header.tensors.get(target.gguf)
        if tensor is None:
            raise InputError(f"{header.source} lacks the tensor {target.gguf}", hint=HINT)
        if tensor.shape != target.shape:
            raise InputError(
                f"{header.source} has {target.gguf} of shape {list(tensor.shape)}, not {list(target.shape)}", hint=HINT
            )
        if len(tensor.shape) == 1 and tensor.type not in FLOATS:
            raise InputError(f"{header.source} has the vector {target.gguf} of type {tensor.type.name}", hint=HINT)
    allowed = {target.gguf for target in targets} | ({ROPE_FACTORS} if rope_factors else set())
    left = sorted(set(header.tensors) - allowed)
    if left:
        raise InputError(
            f"{header.source} has {len(left)} tensors that its architecture does not have: {left[0]!a}", hint=HINT
        )


def _rope_scaling(header: Header, values: Values, theta: float, head: int) -> dict[str, Any] | None:
    """Return the parameters of Llama 3's scaling that give the file's factors, None without scaling."""
    tensor = header.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    if tensor.shape != (head // 2,) or tensor.type != GGMLQuantizationType.F32:
        why = f"of shape {list(tensor.shape)} and type {tensor.type.name}, not [{head // 2}] and F32"
        raise InputError(f"{header.source} has {ROPE_FACTORS} {why}", hint=HINT)
    factors = values(tensor).astype(np.float64)
    if np.allclose(factors, 1):
        return None
    frequencies = theta ** (-np.arange(0, head, 2) / head)
    factor = _shorten(float(factors[-1]))
    for candidate in ({"factor": factor, **LLAMA_3}, _fit_llama_3(factors, frequencies, factor)):
        if candidate and np.allclose(_llama_3_factors(frequencies, candidate), factors, rtol=1e-4):
            return {"rope_type": "llama3", **candidate}
    raise InputError(
        f"{header.source} has {ROPE_FACTORS} from {factors[0]:.4g} to {factors[-1]:.4g}, which are not Llama 3's",
        hint="name another model: fledge supports only Llama 3's RoPE scaling",
    )


def _llama_3_factors(frequencies: npt.NDArray[np.float64], scaling: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Return the factors that llama.cpp's converter writes: 1 for high frequencies, `factor` for low ones."""
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    result: npt.NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return result


def _fit_llama_3(
    factors: npt.NDArray[np.float64], frequencies: npt.NDArray[np.float64], factor: float
) -> dict[str, Any] | None:
    """Fit the scaling: between low and high frequencies, the reciprocals of the factors lie on a line."""
    between = (factors > 1 + 1e-6) & (factors < factor * (1 - 1e-6))
    if factor <= 1 or between.sum() < 2:
        return None
    smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
    slope, start = np.polyfit(frequencies[between], smooth, 1)
    context = LLAMA_3["original_max_position_embeddings"]
    width = context / (2 * math.pi * slope)
    low = -start * width
    if not 0 < low < low + width:
        return None
    return {
        "factor": factor,
        "low_freq_factor": float(low),
        "high_freq_factor": float(low + width),
        "original_max_position_embeddings": context,
    }


def _dtype(header: Header) -> str:
    """Return the dtype of the matrices; quantised ones become float32."""
    kinds = {FLOATS.get(item.type, "float32") for item in header.tensors.values() if len(item.shape) > 1}
    return next(iter(kinds)) if len(kinds) == 1 else "float32"


def _shorten(value: float) -> float:
    """Return the shortest decimal equal in single precision: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
