"""Generation settings and their bounds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import ClassVar

from fledge.core.settings import option

LEAST_TEMPERATURE = 1e-3
MAX_STOPS = 4
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
    }
)
INTEGERS = ("max_tokens", "top_k", "seed", "n")
REQUEST_ONLY = ("n", "logprobs", "ignore_eos")  # not for prompts, arms and releases


@dataclass(frozen=True)
class GenerationParams:
    """Generation settings. A `temperature` below 0.001 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 do not filter.

    `n` is the number of answers to one prompt, with the seeds `seed`, `seed + 1` and so on. `logprobs` adds the natural
    logarithm of each token's probability. With `ignore_eos` an answer always has `max_tokens` tokens.
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
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        problems = []
        for name, (low, high) in BOUNDS.items():
            value, is_integer = getattr(self, name), name in INTEGERS
            if isinstance(value, bool) or not isinstance(value, int if is_integer else (int, float)):
                problems.append(f"{name} must be {'a whole number' if is_integer else 'a number'}, not {value!r}")
            elif not low <= value <= high:
                problems.append(f"{name} must be from {low:g} to {high:g}, not {value:g}")
        if len(self.stop) > MAX_STOPS or any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            problems.append(f"stop takes up to {MAX_STOPS} sequences of 1 to {MAX_STOP_CHARACTERS} characters")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def samples(self) -> bool:
        """Whether tokens are sampled. Below `LEAST_TEMPERATURE` probabilities would overflow."""
        return self.temperature >= LEAST_TEMPERATURE

    def for_sample(self, index: int) -> "GenerationParams":
        """Return the settings of one of several samples, with its own seed."""
        return replace(self, seed=(self.seed + index) % 2**63)


SETTINGS = tuple(item.name for item in fields(GenerationParams) if item.name not in REQUEST_ONLY)
REQUEST_SETTINGS = (*SETTINGS, "ignore_eos")  # without `n` and `logprobs`
