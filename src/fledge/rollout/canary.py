"""A canary: a candidate release gets more and more of the requests, as long as it keeps within its guards. Pure.

`decide` is asked again and again with what both releases have done; nothing here waits, asks or stores.
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

ENOUGH = 20  # requests in a step, of the candidate, before it is judged
LATEST = 2000  # requests that the percentiles and rates are taken from
CONFIDENCE = 0.995  # that a guard is broken, before the canary ends in the middle of a hold
HOLDS = 3  # in which a candidate release has to be seen within its guards
RESAMPLES = 1000

_METRIC = re.compile(r"error_rate|(ttft|latency)_p(50|90|95|99)")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|)")

CanaryStatus = Literal["running", "passed", "rolled back"]


@dataclass(frozen=True)
class CanaryPlan:
    """`steps` are shares of the requests, 0 to 1, rising; each is held for `hold_s` seconds."""

    steps: tuple[float, ...]
    hold_s: float
    guards: tuple[Guard, ...]


@dataclass(frozen=True)
class CanaryState:
    """Where a canary is; `began` is when its step did, in seconds since the epoch."""

    step: int = 0
    began: float = 0.0
    status: CanaryStatus = "running"
    reason: str = ""
    looks: int = 0  # at the ends of how many holds of this step it was judged
    judged: int = 0  # requests of this step that had come when a broken guard was looked for last


@dataclass(frozen=True)
class Tally:
    """What a release did: requests, those of them that failed (a status of 500 and above), times in seconds of those
    that it answered."""

    requests: int = 0
    errors: int = 0
    ttft: tuple[float, ...] = ()
    latency: tuple[float, ...] = ()


@dataclass(frozen=True)
class GuardReading:
    """A guard as it looks now: the figures of candidate and baseline, None where requests are too few, and whether
    the guard is kept, or surely broken."""

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
    """Read what a user wants, as `5,25,50,100`, `10m`, and `error_rate<=+1%`. Raises `InputError`."""
    shares = tuple(_share(step) for step in steps)
    if not shares or list(shares) != sorted(set(shares)) or shares[0] >= 1:
        raise InputError("--steps are rising shares that begin below 100", hint="--steps 5,25,50,100")
    found = _TIME.fullmatch(hold.strip())
    seconds = float(found[1]) * {"s": 1, "": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not seconds > 0:
        raise InputError(f"--hold {hold!r} is no time", hint="--hold 10m, or 30s, or 1h")
    return CanaryPlan(shares, seconds, tuple(map(_guard, guards)))


def decide(plan: CanaryPlan, state: CanaryState, candidate: Tally, baseline: Tally, now: float) -> CanaryState:
    """What follows from `candidate`, of this step alone, and `baseline`, since the canary began.

    A guard that is surely broken ends it; that is looked for each time the requests have doubled, for whoever looks
    all the time finds chance. At the end of a hold with enough requests the next step follows if all guards are kept;
    it gets three holds for that.
    """
    if state.status != "running" or candidate.requests < ENOUGH:
        return state
    held_out = now - state.began >= (state.looks + 1) * plan.hold_s
    if not held_out and candidate.requests < 2 * state.judged:
        return state
    readings = read_guards(plan, candidate, baseline)
    broken = [reading.words for reading in readings if reading.broken]
    if broken:
        return replace(state, status="rolled back", reason=_said(plan, state, broken))
    if not held_out:
        return replace(state, judged=candidate.requests)
    over = [reading.words for reading in readings if not reading.kept]
    if over:
        looks = state.looks + 1
        if looks < HOLDS:
            return replace(state, looks=looks, judged=candidate.requests)
        return replace(state, status="rolled back", reason=_said(plan, state, over))
    if state.step + 1 < len(plan.steps):
        return CanaryState(state.step + 1, now)
    return replace(state, status="passed", reason=_said(plan, state, [reading.words for reading in readings]))


def read_guards(plan: CanaryPlan, candidate: Tally, baseline: Tally) -> list[GuardReading]:
    """Each guard as it looks now."""
    return [_read(guard, candidate, baseline) for guard in plan.guards]


def _read(guard: Guard, candidate: Tally, baseline: Tally) -> GuardReading:
    if guard.metric == "error_rate":
        return _read_rate(guard, candidate, baseline)
    name, _, percent = guard.metric.partition("_p")
    mine, other = (np.asarray(getattr(tally, name)[-LATEST:]) for tally in (candidate, baseline))
    if len(mine) < ENOUGH or len(other) < ENOUGH:
        return GuardReading(guard.text, None, None, kept=False, broken=False)
    quantile = int(percent) / 100
    value, beside = float(np.quantile(mine, quantile)), float(np.quantile(other, quantile))
    rng = np.random.default_rng(0)
    drawn = [np.quantile(rng.choice(values, (RESAMPLES, len(values))), quantile, axis=1) for values in (mine, other)]
    limits = _limit(guard, drawn[1])
    surely = float(np.mean(drawn[0] > limits)) > CONFIDENCE
    return GuardReading(guard.text, value, beside, kept=value <= float(_limit(guard, beside)), broken=surely)


def _read_rate(guard: Guard, candidate: Tally, baseline: Tally) -> GuardReading:
    """Of rates a percentage is one of points: +1 % on no errors would allow none."""
    if candidate.requests < ENOUGH or not baseline.requests:
        return GuardReading(guard.text, None, None, kept=False, broken=False)
    rate, beside = candidate.errors / candidate.requests, baseline.errors / baseline.requests
    low, _ = confint_proportions_2indep(
        candidate.errors,
        candidate.requests,
        baseline.errors,
        baseline.requests,
        method="newcomb",
        alpha=2 * (1 - CONFIDENCE),
    )
    return GuardReading(guard.text, rate, beside, kept=rate - beside <= guard.change, broken=bool(low > guard.change))


def _limit(guard: Guard, beside: Any) -> Any:
    return beside * (1 + guard.change) if guard.relative else beside + guard.change


def _said(plan: CanaryPlan, state: CanaryState, words: Sequence[str]) -> str:
    return f"at {100 * plan.steps[state.step]:g} % of the requests: {'; '.join(words) or 'no guard was set'}"


def _share(text: str) -> float:
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise InputError(f"--steps: {text!r} is no share of the requests", hint="--steps 5,25,50,100")
    return value


def _guard(text: str) -> Guard:
    guard = read_guard(text)
    if not _METRIC.fullmatch(guard.metric) or not guard.most:
        raise InputError(
            f"guard {text!r}: a canary is guarded by error_rate, and by ttft_ or latency_ with p50, p90, p95 or p99",
            hint='--guard "error_rate<=+1%, ttft_p95<=+20%"',
        )
    return guard
