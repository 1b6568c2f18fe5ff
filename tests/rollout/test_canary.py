"""Decisions of a canary, as pure functions of the measurements."""

import random

import pytest

from fledge.core.errors import InputError
from fledge.rollout.canary import CanaryPlan, CanaryState, Tally, decide, read_guards, read_plan

PLAN = read_plan(("5", "25", "50", "100"), "10m", ("error_rate<=+1%", "ttft_p95<=+20%"))
STARTED = CanaryState(began=1000.0)


def _tally(requests: int, *, errors: int = 0, seconds: float = 0.1, seed: int = 0) -> Tally:
    rng = random.Random(seed)
    times = tuple(seconds * rng.uniform(0.9, 1.1) for _ in range(requests - errors))
    return Tally(requests, errors, times, times)


def test_plan_is_parsed() -> None:
    assert PLAN.steps == (0.05, 0.25, 0.5, 1.0)
    assert PLAN.hold_s == 600
    assert [guard.metric for guard in PLAN.guards] == ["error_rate", "ttft_p95"]
    assert read_plan(("10%",), "90", ()).hold_s == 90


@pytest.mark.parametrize(
    ("steps", "hold", "guard", "words"),
    [
        (("50", "25"), "10m", "error_rate<=+1%", "rising"),
        (("100",), "10m", "error_rate<=+1%", "start below 100"),
        (("0", "50"), "10m", "error_rate<=+1%", "invalid share"),
        (("x",), "10m", "error_rate<=+1%", "invalid share"),
        (("nan",), "10m", "error_rate<=+1%", "invalid share"),
        (("5",), "soon", "error_rate<=+1%", "invalid duration"),
        (("5",), "0s", "error_rate<=+1%", "invalid duration"),
        (("5",), "10m", "token_f1<=+1%", "use error_rate"),
        (("5",), "10m", "error_rate>=-1%", "use error_rate"),
        (("5",), "10m", "nonsense", "nonsense"),
    ],
)
def test_invalid_plan_is_refused(steps: tuple[str, ...], hold: str, guard: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_plan(steps, hold, (guard,))


def test_canary_steps_after_each_hold_and_passes_after_the_last() -> None:
    state, now, shares = STARTED, 1000.0, []
    candidate, baseline = _tally(200), _tally(2000, seed=1)
    for _ in range(4):
        shares.append(PLAN.steps[state.step])
        early = decide(PLAN, state, candidate, baseline, now + 599)
        assert (early.step, early.status) == (state.step, "running")
        now += 600
        state = decide(PLAN, early, candidate, baseline, now)
    assert shares == [0.05, 0.25, 0.5, 1.0]
    assert state.status == "passed"
    assert "ttft_p95" in state.reason
    assert decide(PLAN, state, _tally(200, errors=200), baseline, now + 600) == state


def test_canary_waits_for_enough_requests() -> None:
    late = 1000.0 + 10 * 600
    assert decide(PLAN, STARTED, _tally(19), _tally(2000, seed=1), late) == STARTED
    assert decide(PLAN, STARTED, _tally(20), _tally(2000, seed=1), late).step == 1


@pytest.mark.parametrize("candidate", [_tally(60, errors=12), _tally(60, seconds=0.15)])
def test_broken_guard_ends_the_canary_during_a_hold(candidate: Tally) -> None:
    state = decide(PLAN, STARTED, candidate, _tally(2000, seed=1), 1010.0)
    assert state.status == "rolled back"
    assert "at 5 % of the requests" in state.reason


def test_guards_are_tested_when_the_requests_have_doubled() -> None:
    good, bad, baseline = _tally(30), _tally(59, errors=12), _tally(2000, seed=1)
    state = decide(PLAN, STARTED, good, baseline, 1010.0)
    assert state.judged == 30
    assert decide(PLAN, state, bad, baseline, 1020.0) == state
    assert decide(PLAN, state, _tally(60, errors=12), baseline, 1030.0).status == "rolled back"


def test_uncertain_violation_gets_three_holds() -> None:
    candidate, baseline = _tally(60, errors=1), _tally(2000, seed=1)  # 1.7 % of 60; 1 % is allowed
    assert [reading.kept for reading in read_guards(PLAN, candidate, baseline)] == [False, True]
    state = STARTED
    for hold in (1, 2):
        state = decide(PLAN, state, candidate, baseline, 1000.0 + 600 * hold)
        assert (state.looks, state.status) == (hold, "running")
        assert (
            decide(PLAN, state, _tally(60), baseline, 1000.0 + 600 * hold + 599) == state
        )  # good figures within a hold do not end it
    assert decide(PLAN, state, candidate, baseline, 1000.0 + 1800).status == "rolled back"
    assert decide(PLAN, state, _tally(60), baseline, 1000.0 + 1800).step == 1


def test_guards_are_not_kept_without_baseline_requests() -> None:
    state = decide(PLAN, STARTED, _tally(200), Tally(), 1000.0 + 700)
    assert (state.step, state.looks) == (0, 1)


def _rolled_back(rate: float, times: float, *, step_requests: int = 300) -> float:
    """Return how often a release with this error rate and relative latency is rolled back during a step."""
    plan, count = CanaryPlan(PLAN.steps, 1e9, PLAN.guards), 0
    for seed in range(100):
        rng = random.Random(seed)
        baseline = tuple(rng.lognormvariate(-2, 0.3) for _ in range(1000))
        candidate = [times * rng.lognormvariate(-2, 0.3) for _ in range(step_requests)]
        failed = [rng.random() < rate for _ in range(step_requests)]
        state = STARTED
        for number in range(20, step_requests + 1):
            mine = tuple(candidate[:number])
            tally = Tally(number, sum(failed[:number]), mine, mine)
            state = decide(plan, state, tally, Tally(1000, 0, baseline, baseline), 1001.0)
            if state.status != "running":
                count += 1
                break
    return count / 100


def test_equal_releases_are_rarely_rolled_back_and_worse_ones_mostly() -> None:
    assert _rolled_back(0.0, 1.0) <= 0.05
    assert _rolled_back(0.1, 1.0) >= 0.8
    assert _rolled_back(0.0, 2.0) >= 0.95
