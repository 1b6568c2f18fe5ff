"""Rounds of an engine benchmark: prompts, token times and figures."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class RoundPlan:
    """Rounds of `load` concurrent prompts of unique random tokens; every load `repeats` times.

    `before` and `after` are the tokens of the chat template around a prompt.
    """

    loads: tuple[int, ...]
    repeats: int
    prompt_tokens: int
    tokens: int
    vocabulary: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def rounds(self) -> Iterator[tuple[int, list[list[int]]]]:
        """Yield the load and the prompts of each round. Loads alternate, so that a slow minute affects all alike."""
        rng = random.Random(0)
        for _ in range(self.repeats):
            for load in self.loads:
                yield load, [self._prompt(rng) for _ in range(load)]

    def _prompt(self, rng: random.Random) -> list[int]:
        return [*self.before, *(rng.randrange(1, self.vocabulary) for _ in range(self.prompt_tokens)), *self.after]


class Round(NamedTuple):
    """Times of each token of each sequence, in seconds since the prompts were submitted."""

    load: int
    times: list[list[float]]


class RoundSummary(NamedTuple):
    """Medians and percentiles of all rounds at one load; times in seconds."""

    output_tokens_per_s: float
    requests_per_s: float
    ttft_p50_s: float
    inter_token_p50_s: float
    inter_token_p99_s: float
    latency_p50_s: float
    latency_p99_s: float


def summarize(rounds: Sequence[Round]) -> RoundSummary:
    """Return the figures of rounds at one load: throughput is the median of rounds, times are over all sequences."""
    ends = [max(times[-1] for times in one.times) for one in rounds]
    tokens = [sum(len(times) for times in one.times) for one in rounds]
    sequences = [times for one in rounds for times in one.times]
    gaps = [later - earlier for times in sequences for earlier, later in itertools.pairwise(times)]
    latencies = [times[-1] for times in sequences]
    return RoundSummary(
        output_tokens_per_s=quantile([count / end for count, end in zip(tokens, ends, strict=True)], 0.5),
        requests_per_s=quantile([one.load / end for one, end in zip(rounds, ends, strict=True)], 0.5),
        ttft_p50_s=quantile([times[0] for times in sequences], 0.5),
        inter_token_p50_s=quantile(gaps, 0.5),
        inter_token_p99_s=quantile(gaps, 0.99),
        latency_p50_s=quantile(latencies, 0.5),
        latency_p99_s=quantile(latencies, 0.99),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile `share`, interpolated linearly; 0 without values."""
    return float(np.quantile(values, share)) if values else 0.0
