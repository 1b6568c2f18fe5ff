"""What an engine takes of memory: estimated before it starts, from the model and the settings. Pure but for `check`.

The figures were measured: `tests/engines/test_memory.py` compares them with what engines take.
"""

import json
from typing import NamedTuple

import psutil

from fledge.core.errors import FledgeError
from fledge.core.types import Mode
from fledge.models.snapshot import Snapshot

BLOCK_TOKENS = 32  # of OpenVINO's cache on a CPU
USUAL_TOKENS = 12_288
USUAL_GB = 1.0
# The program with its libraries, and what it computes with.
BASE_BYTES = {"openvino": 180_000_000, "transformers": 700_000_000}


class MemoryEstimate(NamedTuple):
    """Bytes of an engine with a full cache, by what they are for."""

    weights: int
    cache: int
    program: int

    @property
    def total(self) -> int:
        return sum(self)


def estimate(model: Snapshot, engine: str, mode: Mode, cache_gb: float) -> MemoryEstimate:
    """What an engine of the name takes on a CPU for a model."""
    parameters = model.parameters
    program = BASE_BYTES[engine]
    if engine == "transformers":
        return MemoryEstimate(4 * parameters, USUAL_TOKENS * token_bytes(model, "exact"), program)
    copies = 2  # as they were read, and as they are laid out to compute with
    weights = copies * parameters * (4 if mode == "exact" else 1)
    cache = cache_blocks(model, mode, cache_gb) * BLOCK_TOKENS * token_bytes(model, mode)
    return MemoryEstimate(weights, cache, program)


def check(model: Snapshot, engine: str, mode: Mode, cache_gb: float) -> str:
    """A sentence on the memory that an engine will take. Raises `FledgeError` where the machine has too little, swap
    included, for the weights alone."""
    need = estimate(model, engine, mode, cache_gb)
    memory = psutil.virtual_memory()
    if need.weights > memory.total + psutil.swap_memory().total:
        fast = engine == "openvino" and mode == "exact"
        raise FledgeError(
            f"{model.source} takes {need.weights / 1e9:.1f} GB for its weights in {mode} mode, and this machine has "
            f"{memory.total / 1e9:.1f} GB of memory",
            hint="use --mode fast, which needs a quarter of that for weights" if fast else "use a smaller model",
        )
    advice = "use a smaller model"
    if engine == "openvino":
        advice = "lower --cache-gb" if mode == "fast" else "use --mode fast or lower --cache-gb"
    return describe(model.source, need, memory.available, advice)


def describe(source: str, need: MemoryEstimate, available: int, advice: str) -> str:
    """The estimate as a sentence, a warning with `advice` where it is more than what is available."""
    parts = f"weights {_size(need.weights)}, cache up to {_size(need.cache)}"
    text = f"the engine of {source} will take about {_size(need.total)} of memory ({parts})"
    if need.total > available:
        return f"warning: {text}, and {_size(available)} are available; {advice}"
    return f"{text}; {_size(available)} are available"


def cache_blocks(model: Snapshot, mode: str, cache_gb: float) -> int:
    """How many blocks of keys and values fit in so much memory, at least one answer's; 0 is for `USUAL_TOKENS`, within
    `USUAL_GB`. OpenVINO itself counts memory in whole gigabytes."""
    size = token_bytes(model, mode)
    memory = cache_gb * 1e9 if cache_gb else min(USUAL_TOKENS * size, USUAL_GB * 1e9)
    return max(-(-model.context // BLOCK_TOKENS) + 1, int(memory / (BLOCK_TOKENS * size)))


def token_bytes(model: Snapshot, mode: str) -> int:
    """Keys and values of a token. A config that does not tell the model's shape is taken for a narrow one's."""
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))

    def number(*names: str) -> int:
        return next((int(config[name]) for name in names if config.get(name)), 0)

    heads = number("num_attention_heads", "n_head") or 1
    size = number("head_dim") or number("hidden_size", "n_embd", "d_model") // heads
    layers = number("num_hidden_layers", "n_layer", "num_layers") or 1
    # Fast mode keeps a byte for each value, and a scale and a zero point for each head.
    row = 4 * size if mode == "exact" else size + 8
    return 2 * layers * (number("num_key_value_heads") or heads) * row


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
