"""Architectures: compare the tensors in the weights with those that the config implies.

transformers initializes a missing tensor at random and ignores an unknown one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fledge.core.errors import InputError
from fledge.models.config_files import bad_value
from fledge.models.weights import FLOATS, INDEX, WHOLE, Tensor

Shape = tuple[int, ...]

# Buffers in old checkpoints; transformers computes them itself.
LEGACY = re.compile(r"(^|\.)(attn|attention|crossattention)\.(masked_)?bias$|rotary_emb\.inv_freq$")
SAVE_AGAIN = "save it again with save_pretrained, config and weights from one model"
# Exceptions to the rule that `model_type` is the architecture's name in lower case.
OTHER_TYPES = {
    ("LlamaForCausalLM", "code_llama"),
    ("GPT2LMHeadModel", "gpt-sw3"),
    ("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense"),
    ("HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe"),
    ("XLMWithLMHeadModel", "xlm"),
}


class Expected(NamedTuple):
    """The tensors of a model. `optional` ones may be absent; so may `embedding` if a tied `head` is present."""

    prefix: str
    required: dict[str, Shape]
    optional: dict[str, Shape | None]
    embedding: str
    head: str = "lm_head.weight"


class _Config:
    """Values of a `config.json`, with the defaults of transformers."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self._content = content
        self._where = where

    def integer(self, name: str, default: int, alias: str = "", null: int | None = None) -> int:
        """Return an integer field. A null value means `null`, or raises `InputError` if `null` is None."""
        for key in (name, alias):
            if key in self._content and self._content[key] is None:
                if null is not None:
                    return null
                raise bad_value(self._where, key, None, "which is not an integer")
        value = self._content.get(name)
        other = self._content.get(alias)
        if value is not None and other is not None and value != other:
            raise bad_value(self._where, alias, other, f"but {name}, which means the same, is {value}")
        return next((int(found) for found in (value, other) if found is not None), default)

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._content.get(name, default))

    def error(self, name: str, value: Any, why: str) -> InputError:
        return bad_value(self._where, name, value, why)

    def check_padding(self, vocabulary: int) -> None:
        """Raise `InputError` if the padding token has no row in the embedding: transformers would fail on it."""
        token = self._content.get("pad_token_id")
        if token is not None and not -vocabulary <= token < vocabulary:
            raise self.error("pad_token_id", token, f"which is outside the vocabulary of {vocabulary:,} tokens")


def check_model_type(config: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` if `model_type` does not match the architecture."""
    architecture, kind = config["architectures"][0], config.get("model_type")
    stem = re.sub("(ForCausalLM|LMHeadModel)$", "", architecture)
    if not isinstance(kind, str) or not kind:
        raise bad_value(
            where, "model_type", kind, f"which is not the name of a model type; the architecture is {architecture}"
        )
    if (architecture, kind) not in OTHER_TYPES and _normalize(kind) not in (
        _normalize(stem),
        f"{_normalize(stem)}text",
    ):
        raise bad_value(where, "model_type", kind, f"but its architecture is {architecture}", SAVE_AGAIN)


def _normalize(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def check_tensors(config: Mapping[str, Any], found: Mapping[str, Tensor], source: str) -> None:
    """Compare names, shapes and dtypes of tensors with those that the config implies.

    Raises `InputError` that names the file and the tensor. Only dtypes are checked for architectures outside
    `FAMILIES`; the engine checks the rest on loading.
    """
    for name, tensor in found.items():
        if tensor.dtype not in FLOATS and not (LEGACY.search(name) and tensor.dtype in ("BOOL", "U8")):
            raise InputError(
                f"{source}/{tensor.file} has the tensor {name!a} of type {tensor.dtype}; "
                f"weights are {', '.join(FLOATS)}",
                hint="name the original checkpoint, in 16 or 32 bits",
            )
    architecture = config["architectures"][0]
    if architecture not in FAMILIES:
        return
    expected = FAMILIES[architecture](_Config(config, f"{source}/config.json"))
    tensors = _add_prefix(found, expected)
    required = dict(expected.required)
    if expected.head in expected.optional and expected.head in tensors:
        del required[expected.embedding]
    known: dict[str, Shape | None] = {**expected.required, **expected.optional}
    file = f"{source}/{WHOLE if all(tensor.file == WHOLE for tensor in found.values()) else INDEX}"
    missing = [name for name in required if name not in tensors]
    if missing:
        raise InputError(
            f"{file} lacks the tensor {missing[0]!a}{_count_more(missing)}, which config.json implies ({architecture})",
            hint=SAVE_AGAIN,
        )
    left = [name for name in tensors if name not in known]
    if left:
        raise InputError(
            f"{source}/{tensors[left[0]].file} has the tensor {left[0][:100]!a}{_count_more(left)}, "
            f"which config.json does not imply ({architecture})",
            hint=SAVE_AGAIN,
        )
    for name, tensor in tensors.items():
        shape = known[name]
        if shape is not None and tensor.shape != shape:
            raise InputError(
                f"{source}/{tensor.file} has the tensor {name!a} of shape {list(tensor.shape)}; "
                f"config.json implies {list(shape)}",
                hint=SAVE_AGAIN,
            )


def _add_prefix(found: Mapping[str, Tensor], expected: Expected) -> Mapping[str, Tensor]:
    """Return the tensors under prefixed names; old checkpoints lack the prefix."""
    if any(name.startswith(expected.prefix) for name in found):
        return found
    return {name if name == expected.head else expected.prefix + name: tensor for name, tensor in found.items()}


def _count_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _embedding_and_head(
    config: _Config, embedding: str, shape: Shape, tied: bool
) -> tuple[dict[str, Shape], dict[str, Shape | None]]:
    """Return the required and optional tensors of the embedding and the head, which may be tied."""
    head = {"lm_head.weight": shape}
    tied = config.flag("tie_word_embeddings", tied)
    return {embedding: shape, **({} if tied else head)}, {**head} if tied else {}


def _gpt2(config: _Config) -> Expected:
    width = config.integer("n_embd", 768, "hidden_size")
    layers = config.integer("n_layer", 12, "num_hidden_layers")
    positions = config.integer("n_positions", 1024, "max_position_embeddings")
    inner = config.integer("n_inner", 4 * width, null=4 * width)
    embedding = "transformer.wte.weight"
    required, optional = _embedding_and_head(config, embedding, (config.integer("vocab_size", 50257), width), tied=True)
    required["transformer.wpe.weight"] = (positions, width)
    for layer in range(layers):
        block = f"transformer.h.{layer}."
        for name, rows, columns in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            required |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (columns,)}
        for name in ("ln_1", "ln_2"):
            required |= {f"{block}{name}.weight": (width,), f"{block}{name}.bias": (width,)}
        optional |= {f"{block}attn.bias": None, f"{block}attn.masked_bias": None}
    required |= {"transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}
    return Expected("transformer.", required, optional, embedding)


class _Rotary(NamedTuple):
    """Differences between Llama and the architectures derived from it."""

    inner: int  # default of the config, as the next two
    key_value_heads: int = 0  # 0: the number of heads
    head_dim: int = 0  # 0: width / heads
    head_dim_or_null: bool = True
    bias_of_qkv: bool | None = None  # None: `attention_bias` decides, for the output projection too
    mlp_bias: bool = False  # whether the config's `mlp_bias` applies
    norms: bool = False


def _rotary(kind: _Rotary) -> Callable[[_Config], Expected]:
    def expected(config: _Config) -> Expected:
        width = config.integer("hidden_size", 4096)
        inner = config.integer("intermediate_size", kind.inner)
        heads = config.integer("num_attention_heads", 32)
        even = width // heads
        size = config.integer("head_dim", kind.head_dim or even, null=even if kind.head_dim_or_null else None)
        if size % 2:
            raise config.error("head_dim", size, "which is odd: rotary positions need pairs")
        vocabulary = config.integer("vocab_size", 32000)
        config.check_padding(vocabulary)
        shared = config.integer("num_key_value_heads", kind.key_value_heads or heads, null=heads)
        biased = config.flag("attention_bias", False) if kind.bias_of_qkv is None else kind.bias_of_qkv
        embedding = "model.embed_tokens.weight"
        required, optional = _embedding_and_head(config, embedding, (vocabulary, width), tied=False)
        for layer in range(config.integer("num_hidden_layers", 32)):
            block = f"model.layers.{layer}."
            for name, rows, columns, bias in (
                ("self_attn.q_proj", heads * size, width, biased),
                ("self_attn.k_proj", shared * size, width, biased),
                ("self_attn.v_proj", shared * size, width, biased),
                ("self_attn.o_proj", width, heads * size, biased and kind.bias_of_qkv is None),
                ("mlp.gate_proj", inner, width, kind.mlp_bias and config.flag("mlp_bias", False)),
                ("mlp.up_proj", inner, width, kind.mlp_bias and config.flag("mlp_bias", False)),
                ("mlp.down_proj", width, inner, kind.mlp_bias and config.flag("mlp_bias", False)),
            ):
                required[f"{block}{name}.weight"] = (rows, columns)
                if bias:
                    required[f"{block}{name}.bias"] = (rows,)
            for name in ("input_layernorm", "post_attention_layernorm"):
                required[f"{block}{name}.weight"] = (width,)
            if kind.norms:
                required |= {f"{block}self_attn.{name}_norm.weight": (size,) for name in "qk"}
            optional[f"{block}self_attn.rotary_emb.inv_freq"] = None
        required["model.norm.weight"] = (width,)
        return Expected("model.", required, optional, embedding)

    return expected


FAMILIES: dict[str, Callable[[_Config], Expected]] = {
    "GPT2LMHeadModel": _gpt2,
    "LlamaForCausalLM": _rotary(_Rotary(11008, mlp_bias=True)),
    "MistralForCausalLM": _rotary(_Rotary(14336, key_value_heads=8, bias_of_qkv=False)),
    "Qwen2ForCausalLM": _rotary(_Rotary(22016, key_value_heads=32, head_dim_or_null=False, bias_of_qkv=True)),
    "Qwen3ForCausalLM": _rotary(_Rotary(22016, key_value_heads=32, head_dim=128, head_dim_or_null=False, norms=True)),
}
