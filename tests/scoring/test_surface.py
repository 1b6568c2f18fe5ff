import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.scoring.surface import (
    distinct_1,
    distinct_2,
    empty,
    language,
    perplexity,
    question_quality,
    readability,
    refusal,
    rep_4,
    response_length,
    response_quality,
    truncated,
)


def test_length_empty_and_truncated() -> None:
    assert response_length("two  words\n") == 2
    assert [empty(text) for text in ("", " \n\t", "\u00a0", "x")] == [1, 1, 1, 0]
    assert [truncated(reason) for reason in ("length", "stop", "cancelled")] == [1, 0, 0]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I cannot do this.",
        "  As an AI language model, I do not have opinions.",
        "I cannot answer that.",
        "I am unable to say.",
        "Unfortunately, I do not know.",
    ],
)
def test_refusals_are_detected(text: str) -> None:
    assert refusal(text) == 1


@pytest.mark.parametrize("text", ["", "It cannot be said.", "A sorry sight.", "I can do it.", "Icannot is a word"])
def test_other_answers_are_not_refusals(text: str) -> None:
    assert refusal(text) == 0


def test_repetition_by_hand() -> None:
    assert rep_4("a b c d a b c d") == pytest.approx(1 / 5)  # runs of four: abcd, bcda, cdab, dabc, abcd
    assert rep_4("a a a a a a") == pytest.approx(2 / 3)
    assert rep_4("one two three") is None
    assert distinct_1("a b a") == pytest.approx(2 / 3)
    assert distinct_1("A a") == 0.5
    assert distinct_2("a b a b") == pytest.approx(2 / 3)
    assert distinct_1("") is None
    assert distinct_2("one") is None


def test_readability_by_hand() -> None:
    # 4 words of 3, 3, 2 and 4 letters in one sentence.
    assert readability("The cat is here.") == pytest.approx(4.71 * 12 / 4 + 0.5 * 4 - 21.43)
    assert readability("Go. Go!") == pytest.approx(4.71 * 4 / 2 + 0.5 * 1 - 21.43)
    assert readability(" \n") is None


def test_perplexity_by_hand() -> None:
    assert perplexity((math.log(0.5), math.log(0.125))) == pytest.approx(4.0)  # the geometric mean of 2 and 8
    assert perplexity((0.0, 0.0)) == 1.0
    assert math.isfinite(perplexity((-1e9,)))


def test_language() -> None:
    german = "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter."
    english = "This is quite an ordinary English sentence about the weather."
    assert language(english, "What is the weather like today, please?") == 1
    assert language(german, "What is the weather like today, please?") == 0
    assert language(german, "What is the weather like today, please?", german) == 1
    assert language("Ja.", "What is the weather like today?") is None
    assert language('{"answer": "yes", "reason": "it is"}', "What is the weather like today?") is None


def test_quality_scores_the_surface_form() -> None:
    assert response_quality("It is a method.") == 1.0
    assert response_quality("no no no no") == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert response_quality("Yes.") == pytest.approx((0 + 1 + 1) / 3)
    assert question_quality("What is it?") == 1.0
    assert question_quality("what") == 0.0


@given(st.text(max_size=200))
def test_scores_are_in_range(text: str) -> None:
    for function in (empty, refusal, rep_4, distinct_1, distinct_2, response_quality, question_quality):
        value = function(text)
        assert value is None or 0 <= value <= 1
    assert response_length(text) >= 0
    grade = readability(text)
    assert grade is None or math.isfinite(grade)
    assert language(text, text) in (None, 1.0)


@given(st.lists(st.floats(max_value=0, allow_infinity=False, allow_nan=False), min_size=1))
def test_perplexity_is_at_least_one(logprobs: list[float]) -> None:
    assert 1 <= perplexity(tuple(logprobs)) < math.inf
