import math
import shlex

import numpy as np
import pandas as pd
import pytest

from fledge.comparison.estimates import Estimate, estimate
from fledge.comparison.gates import judge, read_gates
from fledge.comparison.intervals import mean_interval
from fledge.core.errors import InputError

FOUND = {"token_f1": Estimate(0.65, (0.58, 0.72), 40), "error_rate": Estimate(0.0, (0.0, 0.09), 40)}


def test_read_gates() -> None:
    first, second = read_gates("token_f1>=0.6, error_rate <= .01")
    assert (first.metric, first.least, first.limit) == ("token_f1", True, 0.6)
    assert (second.metric, second.least, second.limit) == ("error_rate", False, 0.01)
    assert second.text == "error_rate<=0.01"


@pytest.mark.parametrize("text", ["token_f1>0.6", "token_f1", ">=0.6", "token_f1>=", "token_f1>=high", "", "a>=1,"])
def test_invalid_gates_are_rejected(text: str) -> None:
    with pytest.raises(InputError, match="invalid gate"):
        read_gates(text)


def test_gate_on_the_bound_is_stricter_than_on_the_mean() -> None:
    (gate,) = read_gates("token_f1>=0.6")
    passed = judge(gate, FOUND, "mean")
    assert passed.summary() == "passed  token_f1>=0.6: 0.65 (95 % interval 0.58 to 0.72, 40 questions)"
    failed = judge(gate, FOUND, "bound")
    assert (failed.passed, failed.value, failed.judged) == (False, 0.65, 0.58)
    assert failed.summary() == "FAILED  token_f1>=0.6: 0.65 (95 % interval 0.58 to 0.72, 40 questions)"
    (most,) = read_gates("error_rate<=0.05")
    assert judge(most, FOUND, "mean").passed
    assert not judge(most, FOUND, "bound").passed


def test_gate_passes_at_its_limit() -> None:
    assert judge(read_gates("token_f1>=0.58")[0], FOUND, "bound").passed
    assert judge(read_gates("error_rate<=0.09")[0], FOUND, "bound").passed


def test_a_gate_on_a_missing_metric_fails() -> None:
    result = judge(read_gates("chrf>=0")[0], FOUND, "mean")
    assert (result.passed, result.metric) == (False, "chrf")
    assert result.summary() == "FAILED  chrf>=0: no answer has this metric"


def test_gate_on_the_bound_fails_with_one_question() -> None:
    alone = {"token_f1": Estimate(1.0, (-math.inf, math.inf), 1)}
    assert (
        judge(read_gates("token_f1>=0.6")[0], alone, "bound")
        .summary()
        .startswith("FAILED  token_f1>=0.6: 1 (no interval, 1 question); 1 question too few")
    )
    assert judge(read_gates("token_f1>=0.6")[0], alone, "mean").passed


def test_reason_names_the_flawless_questions_needed() -> None:
    """Wilson's interval of 0 of 34 ends at 0.1015, of 0 of 35 at 0.0989."""
    (gate,) = read_gates("error_rate<=0.1")
    flawless = {count: mean_interval(np.zeros(count), passes=True) for count in (30, 34, 35)}
    results = {
        count: judge(gate, {"error_rate": Estimate(0.0, ci, count, (0.0, 1.0))}, "bound")
        for count, ci in flawless.items()
    }
    assert {count: result.passed for count, result in results.items()} == {30: False, 34: False, 35: True}
    assert results[30].summary().endswith("(95 % interval 0 to 0.1135, 30 questions); 35 flawless questions are needed")
    assert results[35].reason is None
    (most,) = read_gates("token_f1>=0.99")
    assert judge(most, {"token_f1": Estimate(1.0, (0.9, 1.0), 30, (0.0, 1.0))}, "bound").reason == (
        "381 flawless questions are needed"
    )


@pytest.mark.parametrize(
    ("gate", "found", "reason"),
    [
        (
            "token_f1>=0.1",
            Estimate(0.26, (0.0, 1.0), 2, (0.0, 1.0)),
            "2 questions too few: the interval is the whole",
        ),
        ("token_f1>=0.1", Estimate(0.26, (0.0, 1.0), 1, (0.0, 1.0)), "1 question too few"),
        (
            "latency_p95_s<=3",
            Estimate(2.0, (1.0, math.inf), 71, (0.0, math.inf)),
            "2 (95 % interval from 1, without an upper bound, 71 questions); "
            "71 answers cannot bound a 95th percentile: 72 are needed",
        ),
        ("token_f1>=1", Estimate(1.0, (0.9, 1.0), 30, (0.0, 1.0)), "; no number of questions can prove this"),
        ("error_rate<=0", Estimate(0.0, (0.0, 0.1), 30, (0.0, 1.0)), "no number of questions can prove this"),
    ],
)
def test_reason_of_a_gate_with_too_few_answers(gate: str, found: Estimate, reason: str) -> None:
    (asked,) = read_gates(gate)
    result = judge(asked, {asked.metric: found}, "bound")
    assert not result.passed
    assert reason in result.summary()
    assert "inf" not in result.summary()
    assert judge(asked, {asked.metric: found}, "mean").reason is None


def test_no_reason_if_more_answers_would_not_help() -> None:
    (slow,) = read_gates("latency_p95_s<=3")
    result = judge(slow, {"latency_p95_s": Estimate(3.0, (2.0, 4.0), 72, (0.0, math.inf))}, "bound")
    assert (result.passed, result.metric, result.reason) == (False, "latency_p95_s", None)
    (high,) = read_gates("token_f1>=0.6")
    low = {"token_f1": Estimate(0.5, (0.0, 1.0), 1, (0.0, 1.0))}
    assert (judge(high, low, "mean").passed, judge(high, low, "mean").reason) == (False, None)


@pytest.mark.parametrize(("limit", "best", "worst"), [(90, 100.0, 0.0), (0.8, 1.0, -1.0), (4.6, 5.0, 1.0)])
def test_flawless_questions_depend_on_the_range_of_the_metric(limit: float, best: float, worst: float) -> None:
    """A tenth of the range is left, as for an error rate of 0.1."""
    (gate,) = read_gates(f"quality>={limit}")
    result = judge(gate, {"quality": Estimate(best, (worst, best), 5, (worst, best))}, "bound")
    assert result.reason == "35 flawless questions are needed"


def test_hint_of_an_invalid_gate_is_valid() -> None:
    with pytest.raises(InputError) as caught:
        read_gates("token_f1>0.6")
    flag, gates = shlex.split(caught.value.hint)
    assert (flag, [gate.metric for gate in read_gates(gates)]) == ("--gate", ["token_f1", "error_rate"])


def test_95th_percentile_is_bounded_from_72_answers() -> None:
    for count, bounded in ((71, False), (72, True)):
        table = pd.DataFrame({"question": range(count), "arm": "only", "latency_s": np.arange(count) + 1.0})
        assert math.isfinite(estimate(table)["latency_p95_s"].ci[1]) == bounded


def test_failure_by_the_score_has_no_reason() -> None:
    (gate,) = read_gates("token_f1>=0.6")
    assert judge(gate, {"token_f1": Estimate(0.65, (0.58, 0.72), 40, (0.0, 1.0))}, "bound").reason is None
