import pytest

from fledge.scoring.scorers import SCORERS, exact_match, question_quality, response_quality, score, token_f1


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The cat sat.", "cat sat", 1.0),
        ("a b c d", "b c", 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # 'a' is an article: 3 words, 2 of them right
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("", "", 1.0),
        ("cat cat", "cat", 2 / 3),
    ],
)
def test_token_f1_by_hand(answer: str, reference: str, expected: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(expected)


def test_exact_match_ignores_case_articles_and_punctuation() -> None:
    assert exact_match("The Cat!", "cat") == 1
    assert exact_match("cats", "cat") == 0


def test_scores_need_references_only_where_they_must() -> None:
    assert set(score("hello there", None)) == {"response_length", "response_quality", "empty"}
    assert set(score("hello there", "hello")) == set(SCORERS)
    assert score("", None) == {"response_length": 0.0, "response_quality": 0.0, "empty": 1.0}
    assert score("", None, ["empty"]) == {"empty": 1.0}


def test_quality_is_a_look_at_the_surface() -> None:
    assert response_quality("It is a method.", "") == 1.0
    assert response_quality("no no no no", "") == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert response_quality("Yes.", "") == pytest.approx((0 + 1 + 1) / 3)
    assert question_quality("What is it?") == 1.0
    assert question_quality("what") == 0.0
