"""Admission control: limits on requests and tokens, and release of places."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.limits import Limits
from fledge.serving.admission import RATE_WINDOW_S, Admission, BusyError, estimate_tokens


def _filled(admission: Admission, *tokens: int) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for count in tokens:
        stack.enter_context(admission.admit(count))
    return stack


def test_requests_beyond_the_running_and_queue_limits_are_refused() -> None:
    admission = Admission(Limits(max_running=2, queue_requests=3))
    with _filled(admission, *[1] * 5):
        with pytest.raises(BusyError, match="5 requests are running or waiting, the maximum"), admission.admit(1):
            pass
        assert (admission.requests, admission.tokens) == (5, 5)
    with admission.admit(1):
        assert admission.requests == 1


def test_token_limit_includes_the_new_request() -> None:
    admission = Admission(Limits(queue_tokens=100))
    with _filled(admission, 60):
        with pytest.raises(BusyError, match=r"60 tokens .* this request's 41 .* maximum of 100"), admission.admit(41):
            pass
        with admission.admit(40):
            assert admission.tokens == 100


def test_request_larger_than_the_queue_is_admitted_when_idle() -> None:
    admission = Admission(Limits(queue_tokens=100))
    with _filled(admission, 5000), pytest.raises(BusyError), admission.admit(1):
        pass
    with admission.admit(5000):
        assert admission.tokens == 5000


def test_place_is_released_after_an_error() -> None:
    admission = Admission(Limits())
    with pytest.raises(KeyError), admission.admit(7):
        raise KeyError
    assert (admission.requests, admission.tokens) == (0, 0)


def test_retry_after_follows_the_throughput() -> None:
    admission = Admission(Limits(max_running=1000, queue_requests=1000))
    assert admission.retry_after() == 5  # nothing known yet
    for _ in range(50):
        with admission.admit(1):
            pass
    assert admission.retry_after() == 1
    with _filled(admission, *[1] * 100):
        assert admission.retry_after() == 100 / 2 / (50 / RATE_WINDOW_S)
    with _filled(admission, *[1] * 2000):
        assert admission.retry_after() == 60


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "end"]), st.integers(1, 500)), max_size=100),
    st.integers(1, 5),
    st.integers(0, 5),
    st.integers(1, 1000),
)
def test_counts_match_the_admitted_requests(
    steps: list[tuple[str, int]], running: int, waiting: int, tokens: int
) -> None:
    limits = Limits(max_running=running, queue_requests=waiting, queue_tokens=tokens)
    admission = Admission(limits)
    held: list[tuple[contextlib.ExitStack, int]] = []
    for step, count in steps:
        if step == "end" and held:
            held.pop(count % len(held))[0].close()
        elif step == "ask":
            fits = len(held) < running + waiting and (not held or sum(n for _, n in held) + count <= tokens)
            if fits:
                held.append((_filled(admission, count), count))
            else:
                with pytest.raises(BusyError) as caught:
                    _filled(admission, count)
                assert 1 <= caught.value.retry_after <= 60
        assert (admission.requests, admission.tokens) == (len(held), sum(count for _, count in held))
    for stack, _ in held:
        stack.close()
    assert (admission.requests, admission.tokens) == (0, 0)


def test_refusals_are_fast() -> None:
    admission = Admission(Limits(max_running=1, queue_requests=0))
    for _ in range(1000):
        with admission.admit(1):
            pass
    with _filled(admission, 1):
        started = time.perf_counter()
        for _ in range(100):
            with contextlib.suppress(BusyError), admission.admit(1):
                pass
        assert time.perf_counter() - started < 10.0  # a refusal may take 100 ms


@given(st.integers(0, 10**7))
def test_token_estimate_is_at_least_one(characters: int) -> None:
    assert 1 <= estimate_tokens(characters) <= characters + 1
