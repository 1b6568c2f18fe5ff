"""Estimate an engine's memory from the model and the settings, before it starts. Pure except for `check`.

The constants were measured; `tests/engines/test_memory.py` compares the estimates with running engines.
"""

import json
from typing import NamedTuple

import psutil

from fledge.core.errors import FledgeError
from fledge.core.types import Mode
from fledge.models.snapshot import Snapshot

BLOCK_TOKENS = 32  # block size of OpenVINO's cache on a CPU
DEFAULT_TOKENS = 12_288
DEFAULT_GB = 1.0
# The program, its libraries and its work space.
BASE_BYTES = {"openvino": 180_000_000, "transformers": 700_000_000, "llamacpp": 150_000_000}


class MemoryEstimate(NamedTuple):
    """Memory of an engine with a full cache, in bytes."""

    weights: int
    cache: int
    program: int

    @property
    def total(self) -> int:
        return sum(self)


def estimate(model: Snapshot, engine: str, mode: Mode, cache_gb: float) -> MemoryEstimate:
    """Return the memory that an engine needs for a model on a CPU."""
    parameters = model.parameters
    program = BASE_BYTES[engine]
    if engine == "transformers":
        return MemoryEstimate(4 * parameters, DEFAULT_TOKENS * token_bytes(model, "exact"), program)
    # OpenVINO holds them twice, as read from disk and reordered for computing; 4-bit blocks of a GGUF file have scales.
    weights = int(parameters * {"exact": 8, "fast": 2, "gguf": 0.75}[mode])
    cache = cache_blocks(model, mode, cache_gb) * BLOCK_TOKENS * token_bytes(model, mode)
    return MemoryEstimate(weights, cache, program)


def check(model: Snapshot, engine: str, mode: Mode, cache_gb: float) -> str:
    """Return a sentence on the engine's memory. Raises `FledgeError` if the weights alone exceed memory and swap."""
    need = estimate(model, engine, mode, cache_gb)
    memory = psutil.virtual_memory()
    if need.weights > memory.total + psutil.swap_memory().total:
        fast = engine == "openvino" and mode == "exact"
        raise FledgeError(
            f"the weights of {model.source} need {need.weights / 1e9:.1f} GB in {mode} mode, but this machine has "
            f"{memory.total / 1e9:.1f} GB of memory",
            hint="use --mode fast, which needs a quarter of that" if fast else "use a smaller model",
        )
    advice = "use a smaller model"
    if engine == "openvino":
        advice = "lower --cache-gb" if mode == "fast" else "use --mode fast or lower --cache-gb"
    return describe(model.source, need, memory.available, advice)


def describe(source: str, need: MemoryEstimate, available: int, advice: str) -> str:
    """Return the estimate as a sentence; if it exceeds the available bytes, as a warning with `advice`."""
    parts = f"weights {_format_size(need.weights)}, cache up to {_format_size(need.cache)}"
    text = f"the engine of {source} will take about {_format_size(need.total)} of memory ({parts})"
    if need.total > available:
        return f"warning: {text}, but only {_format_size(available)} are available; {advice}"
    return f"{text}; {_format_size(available)} are available"


def cache_blocks(model: Snapshot, mode: Mode, cache_gb: float) -> int:
    """Return the number of cache blocks that fit in `cache_gb`, at least enough for one answer.

    0 means `DEFAULT_TOKENS` in at most `DEFAULT_GB`. OpenVINO itself counts memory in whole gigabytes.
    """
    return max(-(-model.context // BLOCK_TOKENS) + 1, cache_tokens(model, mode, cache_gb) // BLOCK_TOKENS)


def cache_tokens(model: Snapshot, mode: Mode, cache_gb: float) -> int:
    """Return the number of tokens whose keys and values fit in `cache_gb`; 0 means as in `cache_blocks`."""
    size = token_bytes(model, mode)
    return int((cache_gb * 1e9 if cache_gb else min(DEFAULT_TOKENS * size, DEFAULT_GB * 1e9)) / size)


def token_bytes(model: Snapshot, mode: Mode) -> int:
    """Return the size of a token's keys and values, in bytes. Sizes missing in the config count as small."""
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))

    def number(*names: str) -> int:
        return next((int(config[name]) for name in names if config.get(name)), 0)

    heads = number("num_attention_heads", "n_head") or 1
    size = number("head_dim") or number("hidden_size", "n_embd", "d_model") // heads
    layers = number("num_hidden_layers", "n_layer", "num_layers") or 1
    # Fast mode stores one byte per value, and a scale and a zero point per head.
    row = {"exact": 4 * size, "fast": size + 8, "gguf": 2 * size}[mode]
    return 2 * layers * (number("num_key_value_heads") or heads) * row


def _format_size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
