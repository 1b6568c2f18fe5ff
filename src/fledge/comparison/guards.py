"""Guards: what an arm may not lose on other metrics to win, judged as non-inferiority to the baseline."""

import re
from dataclasses import dataclass

import numpy as np

from fledge.comparison.statistics import PairedSample, one_sided, paired_test
from fledge.core.errors import InputError

_FORM = re.compile(
    r"\s*(?P<metric>[^<>=\s]+)\s*(?P<sign><=|>=)\s*(?P<change>[+-]\d*\.?\d+(?:e[+-]?\d+)?)\s*(?P<percent>%?)\s*"
)
_EXAMPLES = 'as in "latency_s<=+10%" or "token_f1>=-0.02"'


@dataclass(frozen=True)
class Guard:
    """`metric` of an arm may be at most (`most`) or at least its baseline's plus `change`, or times `1 + change`."""

    text: str
    metric: str
    most: bool
    change: float
    relative: bool


@dataclass(frozen=True)
class GuardResult:
    """Whether an arm passes: `p` is the chance of seeing this if the limit were reached or passed, at most alpha.

    `difference` is its mean minus the baseline's on the guarded metric, with a 95 % interval.
    """

    guard: str
    passed: bool
    p: float
    difference: float
    ci: tuple[float, float]
    questions: int


def read_guard(text: str) -> Guard:
    """Read `metric<=+10%`, `metric>=-0.02` and the like. Raises `InputError` for anything else."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InputError(
            f"guard {text!r} is no change against the baseline", hint=f"--guard METRIC<=+CHANGE, {_EXAMPLES}"
        )
    most, change = found["sign"] == "<=", float(found["change"])
    if most != (change >= 0):
        raise InputError(
            f"guard {text!r} asks for a gain, which is a metric to win on", hint=f"a guard limits a loss, {_EXAMPLES}"
        )
    relative = bool(found["percent"])
    return Guard(text.strip(), found["metric"], most, change / 100 if relative else change, relative)


def check_guard(guard: Guard, sample: PairedSample, alpha: float) -> GuardResult:
    """Judge a guard on the paired scores of an arm and its baseline, by a one-sided test."""
    seen = paired_test(sample)
    if guard.relative:
        limit = PairedSample(sample.a, sample.b * (1 + guard.change), clusters=sample.clusters, bounds=sample.bounds)
        p = one_sided(limit, 0.0, "less" if guard.most else "greater")
    else:
        p = one_sided(sample, guard.change, "less" if guard.most else "greater")
    count = int(np.size(sample.a))
    return GuardResult(guard.text, p < alpha, p, seen.difference, (seen.low, seen.high), count)
