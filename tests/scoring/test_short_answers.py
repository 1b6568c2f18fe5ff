"""Numbers and letters in the forms that people and models write."""

import pytest

from fledge.scoring.catalogue import choose_scorers, score
from fledge.scoring.scorer import Response
from fledge.scoring.short_answers import answer_pattern, choice, number, suitable_scorer


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("She makes 9 * 2 = $18 every day.", "18", 1),
        ("#### 18", "Janet sells 16 - 3 - 4 = 9 duck eggs a day.\n#### 18", 1),
        ("It is 1,234,567.50 in all", "1234567.5", 1),
        ("The total is 18.", "18", 1),
        ("18.00", "18", 1),
        ("-3 degrees", "-3", 1),
        ("\u22123", "-3", 1),
        ("3 degrees", "-3", 0),
        ("from 5-3", "3", 1),
        ("a half: 1/2", "0.5", 1),
        ("3 / 4", ".75", 1),
        ("50%", "50", 1),
        ("50 percent", "0.5", 1),
        ("0.5", "50 %", 1),
        ("5", "50%", 0),
        ("It costs $20", "20", 1),
        ("18, or rather 19", "18", 0),
        ("nineteen", "19", 0),
        ("", "19", 0),
        ("In COVID19 there is no number", "19", 0),
        ("1/0", "1", 1),
        ("1e6 of them", "1,000,000", 1),
        ("it is \u20135 degrees", "-5", 1),
        ("from 3\u20135", "5", 1),
        ("9" * 5000, "9", 0),
        ("7", "no number", None),
    ],
)
def test_last_numbers_are_compared(answer: str, reference: str, score: float | None) -> None:
    assert number(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("B", "B", 1),
        ("(B)", "B", 1),
        ("B. Because it floats.", "B", 1),
        ("**B**", "B", 1),
        ("The answer is (C).", "C", 1),
        ("A is tempting, but the answer is: D", "D", 1),
        ("Answer: A", "(A) a compass", 1),
        ("A compass points north.", "A", 0),
        ("It cannot be (A), so it is (E)", "E", 1),
        ("I choose none.", "B", 0),
        ("", "B", 0),
        ("The answer is A's neighbour, (B)", "B", 1),
        ("The answer is B. Option C is wrong.", "B", 1),
        ("It is $\\boxed{\\text{D}}$", "D", 1),
        ("B is the correct answer, and A is not.", "B", 1),
        ("I choose E", "E", 1),
        ("the best option is \u201cC\u201d", "C", 1),
        ("'B'", "B", 1),
        ("Option D", "D", 1),
        ("B", "because it floats", None),
    ],
)
def test_chosen_letters_are_compared(answer: str, reference: str, score: float | None) -> None:
    assert choice(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "pattern", "found"),
    [
        ("The answer is Rome. No, the answer is Paris.", r"answer is (\w+)", 1),
        ("The answer is paris", r"answer is (\w+)", 1),
        ("Paris", r"answer is (\w+)", 0),
        ("It is <Paris>", "<.+>", 1),
        ("It is Rome", r"is (Paris)?", 0),
    ],
)
def test_last_match_of_a_pattern_is_compared(answer: str, pattern: str, found: float) -> None:
    assert answer_pattern(answer, "Paris", pattern) == found


@pytest.mark.parametrize(
    ("answer", "reference", "found"),
    [
        ("-3", "3", 0),
        ("1.5", "15", 0),
        ("1/2", "12", 0),
        ("+", "-", 0),
        ("the", "A", 0),
        ("1,000", "1000", 1),
        ("'Rome'.", "rome", 1),
    ],
)
def test_signs_and_words_of_a_match_are_kept(answer: str, reference: str, found: float) -> None:
    assert answer_pattern(f"the answer is {answer}", reference, r"answer is (\S+)") == found


def test_catastrophic_backtracking_is_an_error_of_its_answer() -> None:
    scores = score(Response("a" * 60 + "b", reference="a"), choose_scorers(("number",), "(a|aa)+$"))
    assert "TimeoutError" in scores.errors["answer_pattern"]


@pytest.mark.parametrize(
    ("references", "found"),
    [
        (["18", "1,000", "$20.", "3/4", ""], "number"),
        (["A", "(C)", "E."], "choice"),
        (["18", "eighteen"], None),
        (["A", "F"], None),
        (["", ""], None),
        ([], None),
    ],
)
def test_suitable_scorer(references: list[str], found: str | None) -> None:
    assert suitable_scorer(references) == found
