"""Guards: limits on what a winner may lose on other metrics, tested as non-inferiority to the baseline."""

import re
from dataclasses import dataclass

import numpy as np

from fledge.comparison.statistics import PairedSample, one_sided_p, paired_test
from fledge.core.errors import InputError

_FORM = re.compile(
    r"\s*(?P<metric>[^<>=\s]+)\s*(?P<sign><=|>=)\s*(?P<change>[+-]\d*\.?\d+(?:e[+-]?\d+)?)\s*(?P<percent>%?)\s*"
)
_EXAMPLES = 'as in "latency_s<=+10%" or "token_f1>=-0.02"'


@dataclass(frozen=True)
class Guard:
    """Limit for an arm's `metric`: at most (`most`) or at least the baseline's plus `change` (`relative`: times
    `1 + change`)."""

    text: str
    metric: str
    most: bool
    change: float
    relative: bool


@dataclass(frozen=True)
class GuardResult:
    """Whether an arm passes: `p`, the p-value against the limit being violated, is below alpha.

    `difference` is the arm's mean minus the baseline's on the guarded metric, with a 95 % interval.
    """

    guard: str
    passed: bool
    p: float
    difference: float
    ci: tuple[float, float]
    questions: int


def read_guard(text: str) -> Guard:
    """Parse a guard such as `metric<=+10%` or `metric>=-0.02`. Raises `InputError` if it is invalid."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InputError(
            f"invalid guard {text!r}: not a change against the baseline", hint=f"--guard METRIC<=+CHANGE, {_EXAMPLES}"
        )
    most, change = found["sign"] == "<=", float(found["change"])
    if most != (change >= 0):
        raise InputError(f"invalid guard {text!r}: it requires a gain", hint=f"a guard limits a loss, {_EXAMPLES}")
    relative = bool(found["percent"])
    return Guard(text.strip(), found["metric"], most, change / 100 if relative else change, relative)


def check_guard(guard: Guard, sample: PairedSample, alpha: float) -> GuardResult:
    """Check a guard on the paired scores of an arm and its baseline with a one-sided test."""
    result = paired_test(sample)
    if guard.relative:
        limit = PairedSample(sample.a, sample.b * (1 + guard.change), clusters=sample.clusters, bounds=sample.bounds)
        p = one_sided_p(limit, 0.0, "less" if guard.most else "greater")
    else:
        p = one_sided_p(sample, guard.change, "less" if guard.most else "greater")
    count = int(np.size(sample.a))
    return GuardResult(guard.text, p < alpha, p, result.difference, (result.low, result.high), count)
