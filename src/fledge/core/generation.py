"""Generation settings and their bounds."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import ClassVar

from fledge.core.settings import option

LEAST_TEMPERATURE = 1e-3
MAX_STOPS = 4
MAX_STOP_TOKENS = 16
SEED_BITS = 53  # exact in every JSON parser
MAX_STOP_CHARACTERS = 100
BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "max_tokens": (1, 4096),
        "temperature": (0, 2),
        "top_p": (1e-6, 1),
        "top_k": (0, 1_000_000),
        "min_p": (0, 0.999),
        "repetition_penalty": (0.1, 10),
        "seed": (0, 2**63 - 1),
        "n": (1, 16),
        "presence_penalty": (-2, 2),
        "frequency_penalty": (-2, 2),
        "min_tokens": (0, 4096),
        "top_logprobs": (0, 20),
    }
)
INTEGERS = ("max_tokens", "top_k", "seed", "n", "min_tokens", "top_logprobs")
# Settings of requests that not every engine supports.
ENGINE_SETTINGS = ("presence_penalty", "frequency_penalty", "min_tokens", "stop_token_ids")
REQUEST_ONLY = (
    "n",
    "logprobs",
    "top_logprobs",
    "ignore_eos",
    "echo",
    "grammar",
    "parse_special",
    *ENGINE_SETTINGS,
)  # of one request, and no setting of a prompt, an arm or a release


@dataclass(frozen=True)
class GenerationParams:
    """Generation settings. A `temperature` of about 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 do not filter.

    `n` is the number of answers to one prompt; each has a seed derived from `seed`. `logprobs` adds the natural
    logarithm of each token's probability, and `top_logprobs` those of the likeliest tokens in its place. `ignore_eos`
    continues to `max_tokens`. `echo` puts the tokens of the prompt before the answer; `max_tokens` may then be 0.
    `grammar` is the grammar of all possible answers, see `fledge.engines.grammars`. The penalties lower the logits of
    tokens that the answer has already, once or for each time. An answer ends after `min_tokens`, if `max_tokens` allows
    that many, and at `stop_token_ids`. `parse_special` reads special tokens in the text of a prompt as such.
    """

    GROUP: ClassVar = "Generation"

    max_tokens: int = option(128, "maximum number of new tokens (1 to 4096)", group="")
    temperature: float = option(0.0, "0 is greedy; up to 2")
    top_p: float = option(1.0, "nucleus sampling: total probability of the tokens to sample from")
    top_k: int = option(0, "sample from this many likeliest tokens; 0 for all")
    min_p: float = option(0.0, "sample from tokens at least this likely, relative to the likeliest")
    repetition_penalty: float = option(1.0, "above 1 discourages repetition (0.1 to 10)")
    seed: int = option(0, "sampling seed")
    stop: tuple[str, ...] = option((), "up to four stop sequences; not returned", strip=False)
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    ignore_eos: bool = False
    echo: bool = False
    grammar: str = ""
    parse_special: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        for name, (low, high) in BOUNDS.items():
            value, is_integer = getattr(self, name), name in INTEGERS
            if isinstance(value, bool) or not isinstance(value, int if is_integer else (int, float)):
                problems.append(f"{name} must be {'a whole number' if is_integer else 'a number'}, not {value!r}")
            elif not (0 if self.echo and name == "max_tokens" else low) <= value <= high:
                problems.append(f"{name} must be from {low:g} to {high:g}, not {value:g}")
        if len(self.stop) > MAX_STOPS or any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            problems.append(f"stop takes up to {MAX_STOPS} sequences of 1 to {MAX_STOP_CHARACTERS} characters")
        if self.grammar and self.ignore_eos:
            problems.append("ignore_eos cannot be combined with a grammar: the answer must end where it is complete")
        if len(self.stop_token_ids) > MAX_STOP_TOKENS or any(token < 0 for token in self.stop_token_ids):
            problems.append(f"stop_token_ids takes up to {MAX_STOP_TOKENS} token ids")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def samples(self) -> bool:
        """Whether tokens are sampled; below `LEAST_TEMPERATURE` probabilities would overflow."""
        return self.temperature >= LEAST_TEMPERATURE

    @property
    def takes_likeliest(self) -> bool:
        """Whether each token is the likeliest one of the model itself."""
        changed = self.grammar or self.ignore_eos or self.min_tokens or self.presence_penalty or self.frequency_penalty
        return not (self.samples or self.repetition_penalty != 1 or changed)

    def for_sample(self, index: int) -> "GenerationParams":
        """Return the settings of one of several samples, with its own seed."""
        return replace(self, seed=derive_seed(self.seed, index))


def derive_seed(seed: int, index: int) -> int:
    """Return the seed of sample `index`: `seed` itself for the first, a hash of both for the others.

    So the samples of seed 5 are not those of seeds 5, 6, 7 and so on.
    """
    if not index:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8]) >> (64 - SEED_BITS)


def draw_seed() -> int:
    """Return a random seed, for a request that sets none."""
    return secrets.randbits(SEED_BITS)


SETTINGS = tuple(item.name for item in fields(GenerationParams) if item.name not in REQUEST_ONLY)
REQUEST_SETTINGS = (*SETTINGS, "ignore_eos")  # without `n` and `logprobs`
