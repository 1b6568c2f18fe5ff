"""Gates: what a metric must reach, judged on the bound of its interval or on its mean."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fledge.core.errors import InputError

if TYPE_CHECKING:
    from fledge.comparison.estimates import Estimate

_FORM = re.compile(r"\s*(?P<metric>[\w.:/-]+)\s*(?P<sign><=|>=)\s*(?P<limit>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*")
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
    """Whether a gate passed; `value` is the mean, `judged` the number that it was judged by, None where there is no
    answer to judge."""

    gate: str
    metric: str
    passed: bool
    value: float | None
    ci: tuple[float, float] | None
    judged: float | None

    def in_words(self) -> str:
        """One line for people."""
        sign = "passed" if self.passed else "FAILED"
        if self.value is None or self.ci is None or self.judged is None:
            return f"{sign}  {self.gate}: no answer has this metric"
        interval = f"95 % interval {self.ci[0]:.4g} to {self.ci[1]:.4g}" if math.isfinite(self.ci[0]) else "no interval"
        return f"{sign}  {self.gate}: {self.value:.4g} ({interval})"


def read_gates(text: str) -> tuple[Gate, ...]:
    """Gates from a text such as `token_f1>=0.6, error_rate<=0.01`. Raises `InputError` for anything else."""
    gates = []
    for part in text.split(","):
        found = _FORM.fullmatch(part)
        if found is None:
            raise InputError(f"{part.strip()!r} is no gate", hint='--gate "token_f1>=0.6, error_rate<=0.01"')
        gates.append(Gate(found["metric"], found["sign"] == ">=", float(found["limit"])))
    return tuple(gates)


def judge(gate: Gate, estimates: "Mapping[str, Estimate]", on: GateOn) -> GateResult:
    """Judge a gate. On the `bound`, the far end of the 95 % interval must reach the limit as well."""
    found = estimates.get(gate.metric)
    if found is None:
        return GateResult(gate.text, gate.metric, False, None, None, None)
    judged = found.value if on == "mean" else found.ci[0 if gate.least else 1]
    passed = judged >= gate.limit if gate.least else judged <= gate.limit
    return GateResult(gate.text, gate.metric, passed, found.value, found.ci, judged)
