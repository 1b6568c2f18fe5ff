"""Decisions of a canary, as pure functions of the measurements."""

import random
import shlex

import numpy as np
import pytest

from fledge.core.errors import InputError
from fledge.rollout.canary import CanaryPlan, CanaryState, Tally, decide, read_guards, read_plan

PLAN = read_plan(("5", "25", "50", "100"), "10m", ("error_rate<=+1%", "ttft_p95<=+20%"))
STARTED = CanaryState(began=1000.0)


def _tally(requests: int, *, errors: int = 0, seconds: float = 0.1, seed: int = 0) -> Tally:
    rng = random.Random(seed)
    times = tuple(seconds * rng.uniform(0.9, 1.1) for _ in range(requests - errors))
    return Tally(requests, errors, times, times)


def test_what_a_user_types_is_read() -> None:
    plan = read_plan(("5", "25%", "50", "100"), "10m", ("error_rate<=+1%", "ttft_p95<=+20%"))
    assert plan.steps == (0.05, 0.25, 0.5, 1.0)
    assert [guard.metric for guard in plan.guards] == ["error_rate", "ttft_p95"]


@pytest.mark.parametrize(("hold", "seconds"), [("90", 90), ("0.5s", 0.5), ("30s", 30), ("10m", 600), ("1.5 h", 5400)])
def test_hold_is_seconds_minutes_or_hours(hold: str, seconds: float) -> None:
    assert read_plan(("10",), hold, ()).hold_s == seconds


@pytest.mark.parametrize(
    ("steps", "hold", "guard", "words"),
    [
        (("50", "25"), "10m", "error_rate<=+1%", "rising"),
        (("100",), "10m", "error_rate<=+1%", "start below 100"),
        (("0", "50"), "10m", "error_rate<=+1%", "invalid share"),
        (("150",), "10m", "error_rate<=+1%", "invalid share"),
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


@pytest.mark.parametrize(
    ("flag", "steps", "hold", "guards"),
    [
        ("--steps", ("100",), "10m", ()),
        ("--steps", ("150",), "10m", ()),
        ("--hold", ("5",), "soon", ()),
        ("--guard", ("5",), "10m", ("token_f1<=+1%",)),
    ],
)
def test_hint_of_a_refused_plan_is_valid(flag: str, steps: tuple[str, ...], hold: str, guards: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        read_plan(steps, hold, guards)
    first, example, *_ = shlex.split(caught.value.hint)
    assert first == flag
    values = {"--steps": "5", "--hold": "10m", "--guard": "error_rate<=+1%"} | {flag: example.rstrip(",")}
    read_plan(values["--steps"].split(","), values["--hold"], values["--guard"].split(","))


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
        assert decide(PLAN, state, _tally(60), baseline, 1000.0 + 600 * hold + 599) == state  # a good moment is no hold
    ended = decide(PLAN, state, candidate, baseline, 1000.0 + 1800)
    assert ended.status == "rolled back"
    assert ended.reason == "at 5 % of the requests: error_rate<=+1%: 0.01667 against 0"
    assert decide(PLAN, state, _tally(60), baseline, 1000.0 + 1800).step == 1


def test_guards_are_not_kept_without_baseline_requests() -> None:
    state = decide(PLAN, STARTED, _tally(200), Tally(), 1000.0 + 700)
    assert (state.step, state.looks) == (0, 1)


@pytest.mark.parametrize(("candidate", "baseline"), [(19, 100), (100, 19)])
def test_percentiles_of_fewer_than_twenty_answers_are_not_judged(candidate: int, baseline: int) -> None:
    plan = read_plan(("50",), "10m", ("latency_p95<=+20%",))
    ours, others = (Tally(100, 100 - count, (), (1.0,) * count) for count in (candidate, baseline))
    (reading,) = read_guards(plan, ours, others)
    assert reading.words == "latency_p95<=+20%: nothing against nothing"
    assert (reading.kept, reading.broken) == (False, False)
    state = decide(plan, STARTED, ours, others, 1000.0 + 600)
    assert (state.step, state.looks, state.status) == (0, 1, "running")


def test_error_rate_is_not_judged_without_baseline_requests() -> None:
    reading = read_guards(PLAN, _tally(200), Tally())[0]
    assert (reading.words, reading.kept, reading.broken) == ("error_rate<=+1%: nothing against nothing", False, False)


@pytest.mark.parametrize(("percent", "value"), [("50", 50.5), ("90", 90.1), ("95", 95.05), ("99", 99.01)])
def test_percentiles_of_one_to_a_hundred_seconds(percent: str, value: float) -> None:
    plan = read_plan(("50",), "10m", (f"ttft_p{percent}<=+20%",))
    candidate, baseline = (Tally(len(times), 0, times) for times in (tuple(np.arange(1.0, 101)), (2.0,) * 20))
    (reading,) = read_guards(plan, candidate, baseline)
    assert (reading.candidate, reading.baseline) == pytest.approx((value, 2.0))
    assert reading.words == f"ttft_p{percent}<=+20%: {value:.4g} against 2"
    assert reading.broken


@pytest.mark.parametrize(
    ("guard", "seconds", "kept"),
    [
        ("latency_p50<=+0.5", 2.5, True),
        ("latency_p50<=+0.5", 2.6, False),
        ("latency_p50<=+25%", 2.5, True),
        ("latency_p50<=+25%", 2.6, False),
    ],
)
def test_limit_is_seconds_or_a_share_of_the_baseline_and_may_be_reached(guard: str, seconds: float, kept: bool) -> None:
    plan = read_plan(("50",), "10m", (guard,))
    (reading,) = read_guards(plan, Tally(20, 0, (), (seconds,) * 20), Tally(20, 0, (), (2.0,) * 20))
    assert (reading.kept, reading.broken) == (kept, not kept)


def test_a_median_over_the_limit_by_chance_breaks_no_guard() -> None:
    """Half of 20 answers take 1 s and half 1.5 s: the median is 1.25 s, and of another 20 answers often 1 s."""
    plan = read_plan(("50",), "10m", ("latency_p50<=+20%",))
    candidate, baseline = Tally(20, 0, (), (1.0, 1.5) * 10), Tally(100, 0, (), (1.0,) * 100)
    (reading,) = read_guards(plan, candidate, baseline)
    assert (reading.candidate, reading.kept, reading.broken) == (1.25, False, False)


@pytest.mark.parametrize(("errors", "broken"), [(3, False), (4, True)])
def test_error_rate_breaks_its_guard_with_newcombes_interval(errors: int, broken: bool) -> None:
    """The 99 % interval of the difference to 0 of 2,000 starts at 0.7 % for 3 of 100, and at 1.2 % for 4 of 100
    (Newcombe 1998, method 10; of 3 the 95 % interval starts above 1 %)."""
    (reading, _) = read_guards(PLAN, _tally(100, errors=errors), _tally(2000))
    assert reading.words == f"error_rate<=+1%: 0.0{errors} against 0"
    assert (reading.kept, reading.broken) == (False, broken)


@pytest.mark.parametrize(("errors", "kept"), [(20, True), (21, False)])
def test_error_rate_may_exceed_the_baseline_by_the_guard(errors: int, kept: bool) -> None:
    plan = read_plan(("50",), "10m", ("error_rate<=+25%",))
    (reading,) = read_guards(plan, _tally(40, errors=errors), _tally(400, errors=100))
    assert (reading.candidate, reading.baseline) == (errors / 40, 0.25)
    assert reading.kept == kept


def test_reason_lists_all_guards() -> None:
    candidate, baseline = Tally(40, 0, (1.0,) * 40), Tally(40, 0, (2.0,) * 40)
    for guards, words in (
        (PLAN.guards, "error_rate<=+1%: 0 against 0; ttft_p95<=+20%: 1 against 2"),
        ((), "no guards"),
    ):
        plan = CanaryPlan((0.5,), 600.0, guards)
        passed = decide(plan, STARTED, candidate, baseline, 1000.0 + 600)
        assert (passed.status, passed.reason) == ("passed", f"at 50 % of the requests: {words}")


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
