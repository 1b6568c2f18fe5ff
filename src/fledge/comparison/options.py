"""Comparison options and their defaults. Imports nothing heavy, since a command needs it for its help."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fledge.core.errors import InputError

ALPHA = 0.05
POWER = 0.8
TestName = Literal["auto", "t", "wilcoxon", "permutation", "mcnemar", "mcnemar-chi2", "mcnemar-chi2-corrected"]
TESTS: tuple[str, ...] = get_args(TestName)


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison.

    `metric` defaults to `token_f1` if there are references, `baseline` to the first arm. Arms that differ by less than
    `margin` are equivalent. `guards` limit what a winner may lose on other metrics, as in `latency_s<=+10%`. `alpha` is
    the family-wise error rate of `better` and `worse`. `by_topic` treats the questions of one topic as related.
    `higher_is_better` gives the direction of a metric that fledge does not know.
    """

    metric: str | None = None
    baseline: str | None = None
    margin: float | None = None
    all_pairs: bool = False
    guards: tuple[str, ...] = ()
    test: TestName = "auto"
    alpha: float | None = None
    by_topic: bool = True
    higher_is_better: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise InputError(f"margin must be above 0, not {self.margin:g}", hint="--margin 0.02")
        if self.alpha is not None and not 0 < self.alpha <= 0.5:
            raise InputError(f"alpha must be above 0 and at most 0.5, not {self.alpha:g}", hint="--alpha 0.05")
        if self.test not in TESTS:
            raise InputError(f"unknown test {self.test!r}", hint=f"--test one of: {', '.join(TESTS)}")
