"""Gates: thresholds for a metric, checked against the bound of its interval or its mean."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from fledge.core.errors import InputError
from fledge.core.texts import counted

if TYPE_CHECKING:
    from fledge.comparison.estimates import Estimate

_FORM = re.compile(r"\s*(?P<metric>[\w.:/-]+)\s*(?P<sign><=|>=)\s*(?P<limit>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*")
CONFIDENCE = 0.95  # of an estimate's interval
GateOn = Literal["bound", "mean"]


@dataclass(frozen=True)
class Gate:
    """`metric` must be at least, or at most, `limit`."""

    metric: str
    least: bool
    limit: float

    @property
    def text(self) -> str:
        return f"{self.metric}{'>=' if self.least else '<='}{self.limit:g}"


@dataclass(frozen=True)
class GateResult:
    """Whether a gate passed. `value` is the mean and `judged` the number compared with the limit, both None without
    answers. `reason` says when too few questions are the cause; `questions` counts those with this metric."""

    gate: str
    metric: str
    passed: bool
    value: float | None
    ci: tuple[float, float] | None
    judged: float | None
    reason: str | None = None
    questions: int = 0

    def summary(self) -> str:
        """Return the result in one line."""
        sign = "passed" if self.passed else "FAILED"
        if self.value is None or self.ci is None or self.judged is None:
            return f"{sign}  {self.gate}: no answer has this metric"
        low, high = self.ci
        interval = f"95 % interval {low:.4g} to {high:.4g}"
        if not math.isfinite(high):
            interval = f"95 % interval from {low:.4g}, without an upper bound" if math.isfinite(low) else "no interval"
        reason = f"; {self.reason}" if self.reason else ""
        return f"{sign}  {self.gate}: {self.value:.4g} ({interval}, {counted(self.questions, 'question')}){reason}"


def read_gates(text: str) -> tuple[Gate, ...]:
    """Parse gates such as `token_f1>=0.6, error_rate<=0.01`. Raises `InputError` if the text is invalid."""
    gates = []
    for part in text.split(","):
        found = _FORM.fullmatch(part)
        if found is None:
            what = f"invalid gate {part.strip()!r}: expected METRIC>=LIMIT or METRIC<=LIMIT"
            raise InputError(what, hint='--gate "token_f1>=0.6, error_rate<=0.01"')
        gates.append(Gate(found["metric"], found["sign"] == ">=", float(found["limit"])))
    return tuple(gates)


def judge(gate: Gate, estimates: "Mapping[str, Estimate]", on: GateOn) -> GateResult:
    """Check a gate against the estimates. With `on="bound"`, the whole 95 % interval must satisfy the limit."""
    found = estimates.get(gate.metric)
    if found is None:
        return GateResult(gate.text, gate.metric, False, None, None, None)
    judged = found.value if on == "mean" else found.ci[0 if gate.least else 1]
    passed = judged >= gate.limit if gate.least else judged <= gate.limit
    reason = None if passed or on == "mean" else _explain_failure(gate, found)
    return GateResult(gate.text, gate.metric, passed, found.value, found.ci, judged, reason, found.questions)


def _explain_failure(gate: Gate, found: "Estimate") -> str | None:
    """Return why the bound cannot pass with this number of answers, or None if their number is not the cause."""
    count, (low, high) = found.questions, found.bounds
    if gate.metric == "latency_p95_s":
        fewest = math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(0.95))
        return f"{count:,} answers cannot bound a 95th percentile: {fewest} are needed" if count < fewest else None
    if gate.limit >= high if gate.least else gate.limit <= low:
        return "no number of questions can prove this limit, only the mean can reach it: --gate-on mean"
    if math.isfinite(high - low) and found.value == (high if gate.least else low):
        room = abs(gate.limit - found.value) / (high - low)
        z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        return f"{math.ceil(z * z * (1 - room) / room):,} flawless questions are needed"  # for Wilson's interval
    if found.ci == found.bounds:
        return f"{counted(count, 'question')} too few: the interval is the whole range of the metric"
    return None
