"""How to compare, and the usual values. Nothing heavy is imported here: a command needs it for its help."""

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
    """How to compare.

    `metric` is `token_f1` where there are references, `baseline` the first arm unless named. Differences below
    `margin` are as good as none. `guards` are limits of what a winner may lose elsewhere, as in `latency_s<=+10%`.
    `alpha` is the chance of any wrong `better` or `worse`. `by_topic` counts the questions of one topic as related.
    `higher_is_better` tells the direction of a metric that fledge does not know.
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
            raise InputError(f"no test {self.test!r}", hint=f"--test one of: {', '.join(TESTS)}")
