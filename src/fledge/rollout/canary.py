"""A canary: a candidate release gets a rising share of the requests while it keeps within its guards. Pure.

`decide` is called repeatedly with the requests of both releases.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from statsmodels.stats.proportion import confint_proportions_2indep

from fledge.comparison.guards import Guard, read_guard
from fledge.core.errors import InputError

ENOUGH = 20  # requests of the candidate in a step before it is judged
LATEST = 2000  # requests in percentiles and rates
CONFIDENCE = 0.995  # that a guard is broken, to end the canary during a hold
HOLDS = 3  # for a candidate to keep its guards
RESAMPLES = 1000

_METRIC = re.compile(r"error_rate|(ttft|latency)_p(50|90|95|99)")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|)")

CanaryStatus = Literal["running", "passed", "rolled back"]


@dataclass(frozen=True)
class CanaryPlan:
    """`steps` are rising shares of the requests, 0 to 1; each is held for `hold_s` seconds."""

    steps: tuple[float, ...]
    hold_s: float
    guards: tuple[Guard, ...]


@dataclass(frozen=True)
class CanaryState:
    """The state of a canary; `began` is the start of its step in seconds since the epoch."""

    step: int = 0
    began: float = 0.0
    status: CanaryStatus = "running"
    reason: str = ""
    looks: int = 0  # finished holds of this step
    judged: int = 0  # requests of this step at the last check for a broken guard


@dataclass(frozen=True)
class Tally:
    """The requests of a release, their errors (status 500 and above), and the times of answered ones in seconds."""

    requests: int = 0
    errors: int = 0
    ttft: tuple[float, ...] = ()
    latency: tuple[float, ...] = ()


@dataclass(frozen=True)
class GuardReading:
    """The current figures of a guard for candidate and baseline, None if requests are too few, and whether the guard is
    kept, or broken with `CONFIDENCE`."""

    guard: str
    candidate: float | None
    baseline: float | None
    kept: bool
    broken: bool

    @property
    def words(self) -> str:
        shown = ["nothing" if value is None else f"{value:.4g}" for value in (self.candidate, self.baseline)]
        return f"{self.guard}: {shown[0]} against {shown[1]}"


def read_plan(steps: Sequence[str], hold: str, guards: Sequence[str]) -> CanaryPlan:
    """Parse flags such as `5,25,50,100`, `10m` and `error_rate<=+1%`. Raises `InputError`."""
    shares = tuple(_parse_share(step) for step in steps)
    if not shares or list(shares) != sorted(set(shares)) or shares[0] >= 1:
        raise InputError("--steps must be rising shares that start below 100", hint="--steps 5,25,50,100")
    found = _TIME.fullmatch(hold.strip())
    seconds = float(found[1]) * {"s": 1, "": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not seconds > 0:
        raise InputError(f"invalid duration for --hold: {hold!r}", hint="--hold 10m, or 30s, or 1h")
    return CanaryPlan(shares, seconds, tuple(map(_parse_guard, guards)))


def decide(plan: CanaryPlan, state: CanaryState, candidate: Tally, baseline: Tally, now: float) -> CanaryState:
    """Return the next state, given the requests of `candidate` in this step and of `baseline` since the canary began.

    A guard broken with `CONFIDENCE` ends the canary. This is tested each time the requests have doubled, as constant
    testing would find chance differences. After a hold with enough requests the next step follows if all guards are
    kept; a step gets three holds for that.
    """
    if state.status != "running" or candidate.requests < ENOUGH:
        return state
    held_out = now - state.began >= (state.looks + 1) * plan.hold_s
    if not held_out and candidate.requests < 2 * state.judged:
        return state
    readings = read_guards(plan, candidate, baseline)
    broken = [reading.words for reading in readings if reading.broken]
    if broken:
        return replace(state, status="rolled back", reason=_format_reason(plan, state, broken))
    if not held_out:
        return replace(state, judged=candidate.requests)
    over = [reading.words for reading in readings if not reading.kept]
    if over:
        looks = state.looks + 1
        if looks < HOLDS:
            return replace(state, looks=looks, judged=candidate.requests)
        return replace(state, status="rolled back", reason=_format_reason(plan, state, over))
    if state.step + 1 < len(plan.steps):
        return CanaryState(state.step + 1, now)
    return replace(state, status="passed", reason=_format_reason(plan, state, [reading.words for reading in readings]))


def read_guards(plan: CanaryPlan, candidate: Tally, baseline: Tally) -> list[GuardReading]:
    """Return the current reading of each guard."""
    return [_read_guard(guard, candidate, baseline) for guard in plan.guards]


def _read_guard(guard: Guard, candidate: Tally, baseline: Tally) -> GuardReading:
    if guard.metric == "error_rate":
        return _read_rate(guard, candidate, baseline)
    name, _, percent = guard.metric.partition("_p")
    ours, other = (np.asarray(getattr(tally, name)[-LATEST:]) for tally in (candidate, baseline))
    if len(ours) < ENOUGH or len(other) < ENOUGH:
        return GuardReading(guard.text, None, None, kept=False, broken=False)
    quantile = int(percent) / 100
    value, reference = float(np.quantile(ours, quantile)), float(np.quantile(other, quantile))
    rng = np.random.default_rng(0)
    drawn = [np.quantile(rng.choice(values, (RESAMPLES, len(values))), quantile, axis=1) for values in (ours, other)]
    limits = _compute_limit(guard, drawn[1])
    broken = float(np.mean(drawn[0] > limits)) > CONFIDENCE
    return GuardReading(
        guard.text, value, reference, kept=value <= float(_compute_limit(guard, reference)), broken=broken
    )


def _read_rate(guard: Guard, candidate: Tally, baseline: Tally) -> GuardReading:
    """Read the error rate; its limit is in percentage points, as +1 % of no errors would allow none."""
    if candidate.requests < ENOUGH or not baseline.requests:
        return GuardReading(guard.text, None, None, kept=False, broken=False)
    rate, reference = candidate.errors / candidate.requests, baseline.errors / baseline.requests
    low, _ = confint_proportions_2indep(
        candidate.errors,
        candidate.requests,
        baseline.errors,
        baseline.requests,
        method="newcomb",
        alpha=2 * (1 - CONFIDENCE),
    )
    return GuardReading(
        guard.text, rate, reference, kept=rate - reference <= guard.change, broken=bool(low > guard.change)
    )


def _compute_limit(guard: Guard, reference: Any) -> Any:
    return reference * (1 + guard.change) if guard.relative else reference + guard.change


def _format_reason(plan: CanaryPlan, state: CanaryState, words: Sequence[str]) -> str:
    return f"at {100 * plan.steps[state.step]:g} % of the requests: {'; '.join(words) or 'no guards'}"


def _parse_share(text: str) -> float:
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise InputError(f"invalid share for --steps: {text!r}", hint="--steps 5,25,50,100")
    return value


def _parse_guard(text: str) -> Guard:
    guard = read_guard(text)
    if not _METRIC.fullmatch(guard.metric) or not guard.most:
        raise InputError(
            f"invalid guard {text!r}: use error_rate, or ttft_ or latency_ with p50, p90, p95 or p99",
            hint='--guard "error_rate<=+1%, ttft_p95<=+20%"',
        )
    return guard
