"""Check types and ranges of the values in `config.json` and `generation_config.json`.

transformers accepts most values; a bad one yields nonsense output, or fails long after loading.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fledge.models.config_files import bad_value

WIDTHS = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head")
# Those of transformers; a test compares.
ACTIVATIONS = {
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "hardswish",
    "laplace",
    "leaky_relu",
    "linear",
    "mish",
    "prelu",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
    "xielu",
}
ROPE_TYPES = {"default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "su", "mrope"}
ROPE_NEEDS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
DTYPES = {"float16", "bfloat16", "float32", "float64", "half", "float", "double"}
MAX_LABELS = 10_000
MAX_END_TOKENS = 64


class _Rule(NamedTuple):
    """A condition on the values of these fields, and the error's text if it fails. Null counts as absent."""

    problem: str
    is_valid: Callable[[Any], bool]
    fields: str


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _number(low: float, high: float, *, above: bool = False, below: bool = False) -> Callable[[Any], bool]:
    """Return a test for numbers from `low` to `high`; `above` excludes `low`, `below` excludes `high`."""
    return lambda value: (
        _is_number(value) and low <= value <= high and not (above and value == low) and not (below and value == high)
    )


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_token(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return len(items) <= MAX_END_TOKENS and all(type(item) is int for item in items)


CONFIG = (
    _Rule(
        "neither true nor false",
        lambda value: isinstance(value, bool),
        "tie_word_embeddings use_cache scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn "
        "attention_bias mlp_bias use_sliding_window is_decoder output_hidden_states output_attentions summary_use_proj",
    ),
    _Rule(
        "but fledge runs decoder-only models",
        lambda value: value is False,
        "is_encoder_decoder add_cross_attention",
    ),
    _Rule("but fledge needs true to read the output", lambda value: value is True, "return_dict use_return_dict"),
    _Rule(
        "which is not a number above 0 and at most 0.1",
        _number(0, 0.1, above=True),
        "layer_norm_epsilon layer_norm_eps rms_norm_eps norm_eps norm_epsilon layernorm_epsilon",
    ),
    _Rule(
        "which is not a number from 0 to below 1",
        _number(0, 1, below=True),
        "attn_pdrop embd_pdrop resid_pdrop summary_first_dropout attention_dropout hidden_dropout dropout "
        "activation_dropout classifier_dropout attention_probs_dropout_prob hidden_dropout_prob embedding_dropout",
    ),
    _Rule(
        "which is not a number from 1 to 1e12",
        _number(1, 1e12),
        "rope_theta rope_local_base_freq rotary_emb_base global_rope_theta local_rope_theta",
    ),
    _Rule("which is not a number above 0 and at most 1", _number(0, 1, above=True), "partial_rotary_factor rotary_pct"),
    _Rule("which is not a number from 0 to 1000", _number(0, 1000), "initializer_range"),
    _Rule(
        "which is not an integer of at least 1",
        _integer(1, 10**9),
        "sliding_window attention_window attention_chunk_size original_max_position_embeddings rotary_dim",
    ),
    _Rule("which is not a number of layers", _integer(0, 10**6), "max_window_layers"),
    _Rule(f"which is not an integer from 0 to {MAX_LABELS:,}", _integer(0, MAX_LABELS), "num_labels"),
    _Rule(
        f"which is not an object of up to {MAX_LABELS:,} labels",
        lambda value: isinstance(value, dict) and len(value) <= MAX_LABELS,
        "id2label label2id",
    ),
    _Rule(
        "which is not an activation of transformers",
        lambda value: isinstance(value, str) and value in ACTIVATIONS,
        "activation_function hidden_act hidden_activation ffn_activation",
    ),
    _Rule(
        f"which is not one of {', '.join(sorted(DTYPES))}",
        lambda value: isinstance(value, str) and value in DTYPES,
        "dtype torch_dtype",
    ),
    _Rule("which is not a token id", _is_token, "bos_token_id eos_token_id pad_token_id sep_token_id"),
    _Rule("which is not a string", lambda value: isinstance(value, str), "model_type tokenizer_class _name_or_path"),
)
GENERATION = (
    _Rule(
        "neither true nor false",
        lambda value: isinstance(value, bool),
        "do_sample use_cache output_scores output_logits output_attentions output_hidden_states renormalize_logits "
        "remove_invalid_values return_dict_in_generate",
    ),
    _Rule("which is not a token id", _is_token, "eos_token_id bos_token_id pad_token_id decoder_start_token_id"),
    _Rule(
        "which is not an integer from 0 to 1,000,000,000",
        _integer(0, 10**9),
        "max_length max_new_tokens min_length min_new_tokens num_beams num_return_sequences num_beam_groups "
        "no_repeat_ngram_size encoder_no_repeat_ngram_size",
    ),
    _Rule("which is not an integer of at least -1", _integer(-1, 10**9), "top_k"),
    _Rule("which is not a number from 0 to 100", _number(0, 100), "temperature diversity_penalty"),
    _Rule("which is not a number from 0 to 1", _number(0, 1), "top_p min_p typical_p epsilon_cutoff eta_cutoff top_h"),
    _Rule(
        "which is not a number above 0 and at most 100",
        _number(0, 100, above=True),
        "repetition_penalty encoder_repetition_penalty",
    ),
    _Rule("which is not a number", _is_number, "length_penalty guidance_scale penalty_alpha"),
)


def _check(content: Mapping[str, Any], rules: tuple[_Rule, ...], where: str) -> None:
    for rule in rules:
        for field in rule.fields.split():
            value = content.get(field)
            if value is not None and not rule.is_valid(value):
                raise bad_value(where, field, value, rule.problem)


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` for an invalid value, or one of a model that fledge does not run."""
    quantised = config.get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise bad_value(
            where,
            "quantization_config",
            method or quantised,
            "but fledge does not load quantised checkpoints; it quantises itself (--mode fast)",
            hint="name the original checkpoint, in 16 or 32 bits",
        )
    _check(config, CONFIG, where)
    _check_heads(config, where)
    _check_rope(config, where)
    layers = config.get("layer_types")
    if layers is not None and (
        not isinstance(layers, list)
        or not all(isinstance(layer, str) for layer in layers)
        or len(layers) != config.get("num_hidden_layers", len(layers))
    ):
        raise bad_value(where, "layer_types", layers, "which is not a list of one name for each layer")


def _check_heads(config: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` unless heads divide the width, and key-value heads the heads."""
    named = {name: value for name in (*HEADS, *WIDTHS) if type(value := config.get(name)) is int and value > 0}
    heads = next((name for name in HEADS if name in named), "")
    width = next((name for name in WIDTHS if name in named), "")
    if not heads:
        return
    if width and not config.get("head_dim") and named[width] % named[heads]:
        raise bad_value(where, heads, named[heads], f"which does not divide {width} ({named[width]})")
    shared = config.get("num_key_value_heads")
    if type(shared) is int and shared > 0 and named[heads] % shared:
        raise bad_value(where, "num_key_value_heads", shared, f"which does not divide {heads} ({named[heads]})")


def _check_rope(config: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` unless rotary embeddings have a known type and positive numbers."""
    for name in ("rope_parameters", "rope_scaling"):
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, dict):
            raise bad_value(where, name, value, "which is not an object")
        nested = {key: item for key, item in value.items() if isinstance(item, dict)}  # one for each type of layer
        for place, rope in {name: value, **{f"{name}.{key}": item for key, item in nested.items()}}.items():
            _check_rope_values(rope, where, place)


def _check_rope_values(rope: Mapping[str, Any], where: str, place: str) -> None:
    kind = rope.get("rope_type", rope.get("type"))
    if kind is not None and kind not in ROPE_TYPES:
        raise bad_value(where, f"{place}.rope_type", kind, f"which is not one of {', '.join(sorted(ROPE_TYPES))}")
    missing = [name for name in ROPE_NEEDS.get(str(kind), ()) if rope.get(name) is None]
    if missing:
        raise bad_value(where, f"{place}.rope_type", kind, f"but no {missing[0]}, which this type needs")
    for key, item in rope.items():
        if key in ("rope_theta", "factor", "original_max_position_embeddings") and item is not None:
            if not _number(1, 1e12)(item):
                raise bad_value(where, f"{place}.{key}", item, "which is not a number from 1 to 1e12")
        elif type(item) in (int, float) and item < 0:
            raise bad_value(where, f"{place}.{key}", item, "which is below 0")


def check_generation(generation: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` for a generation setting of the wrong type or out of range."""
    _check(generation, GENERATION, where)


def end_tokens(value: Any, vocabulary: int, where: str) -> tuple[int, ...]:
    """Return the end tokens of a checked `eos_token_id`. Raises `InputError` for ids outside the vocabulary."""
    ids: list[int] = value if isinstance(value, list) else [] if value is None else [value]
    for token in ids:
        if not 0 <= token < vocabulary:
            raise bad_value(where, "eos_token_id", token, f"which is outside the vocabulary of {vocabulary:,} tokens")
    return tuple(ids)
