import math

import pytest

from fledge.comparison.estimates import Estimate
from fledge.comparison.gates import judge, read_gates
from fledge.core.errors import InputError

FOUND = {"token_f1": Estimate(0.65, (0.58, 0.72), 40), "error_rate": Estimate(0.0, (0.0, 0.09), 40)}


def test_gates_are_read() -> None:
    first, second = read_gates("token_f1>=0.6, error_rate <= .01")
    assert (first.metric, first.least, first.limit) == ("token_f1", True, 0.6)
    assert (second.metric, second.least, second.limit) == ("error_rate", False, 0.01)
    assert second.text == "error_rate<=0.01"


@pytest.mark.parametrize("text", ["token_f1>0.6", "token_f1", ">=0.6", "token_f1>=", "token_f1>=high", "", "a>=1,"])
def test_what_is_no_gate(text: str) -> None:
    with pytest.raises(InputError, match="is no gate"):
        read_gates(text)


def test_the_bound_is_stricter_than_the_mean() -> None:
    (gate,) = read_gates("token_f1>=0.6")
    assert judge(gate, FOUND, "mean").passed
    failed = judge(gate, FOUND, "bound")
    assert (failed.passed, failed.value, failed.judged) == (False, 0.65, 0.58)
    assert failed.in_words() == "FAILED  token_f1>=0.6: 0.65 (95 % interval 0.58 to 0.72)"
    (most,) = read_gates("error_rate<=0.05")
    assert judge(most, FOUND, "mean").passed
    assert not judge(most, FOUND, "bound").passed


def test_a_gate_is_passed_at_its_limit() -> None:
    assert judge(read_gates("token_f1>=0.58")[0], FOUND, "bound").passed
    assert judge(read_gates("error_rate<=0.09")[0], FOUND, "bound").passed


def test_what_was_not_measured_does_not_pass() -> None:
    result = judge(read_gates("chrf>=0")[0], FOUND, "mean")
    assert not result.passed
    assert "no answer has this metric" in result.in_words()


def test_one_question_does_not_pass_on_its_bound() -> None:
    alone = {"token_f1": Estimate(1.0, (-math.inf, math.inf), 1)}
    assert not judge(read_gates("token_f1>=0.6")[0], alone, "bound").passed
    assert judge(read_gates("token_f1>=0.6")[0], alone, "mean").passed
