"""Overlap scores by hand, and against the commands of sacrebleu and rouge-score."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.scoring.overlap import bleu, chrf, exact_match, rouge_1, rouge_2, rouge_l, similarity, token_f1

PAIRS = [
    ("the cat sat on the mat", "the cat sat on a mat"),
    ("Gradient boosting adds small models one at a time.", "Boosting fits one small model after another."),
    ("no word in common", "quite different things here"),
    ("identical sentences are alike", "identical sentences are alike"),
    ("Ein Satz über Äpfel, nicht Birnen.", "Ein Satz über Birnen, nicht Äpfel."),
]


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


def test_words_of_any_script_are_compared() -> None:
    assert exact_match("काम", "कम") == token_f1("काम", "कम") == 0  # they differ by a vowel's mark
    assert exact_match("cafe\u0301!", "Caf\u00e9") == rouge_1("cafe\u0301!", "Caf\u00e9") == 1
    assert rouge_l("нет слов", "нет слов") == 1
    assert rouge_l("нет слов", "да") == 0


def test_chrf_by_hand() -> None:
    # "ab" against "ac": precision and recall are 1/2 for letters and 0 for pairs; there are no longer n-grams. The mean
    # over two orders is 1/4, and so is F2, since precision and recall are equal.
    assert chrf("ab", "ac") == pytest.approx(0.25)
    assert chrf("same", "same") == pytest.approx(1.0)
    assert chrf("abc", "xyz") == 0.0


def test_bleu_by_hand() -> None:
    # Four words, the first three equal: precisions 3/4, 2/3, 1/2, and 0 of one 4-gram, smoothed to 1/2 of 1.
    expected = (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25
    assert bleu("a b c d", "a b c e") == pytest.approx(expected)
    assert bleu("same words come here again", "same words come here again") == pytest.approx(1.0)


def test_rouge_by_hand() -> None:
    # Lin (2004), section 3: "police killed the gunman" against "police kill the gunman" has 3 of 4 words in order,
    # "the gunman kill police" only 2, though it has the same words.
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)
    assert rouge_1("the gunman kill police", reference) == pytest.approx(3 / 4)
    assert rouge_2("police kill the gunman", reference) == pytest.approx(1 / 3)


def test_similarity_by_hand() -> None:
    assert similarity("kitten", "sitting") == pytest.approx(1 - 5 / 13)  # 2 letters out, 3 in, of 6 + 7
    assert similarity("", "") == 1.0
    assert similarity("abc", "") == 0.0


@pytest.mark.parametrize("function", [token_f1, exact_match, chrf, bleu, rouge_1, rouge_2, rouge_l, similarity])
@given(answer=st.text(max_size=80), reference=st.text(max_size=80))
def test_scores_are_in_range(function: Callable[[str, str], float], answer: str, reference: str) -> None:
    assert 0 <= function(answer, reference) <= 1


@pytest.mark.parametrize("function", [token_f1, exact_match, chrf, rouge_1, similarity])
@given(text=st.from_regex(r"[a-z]{4,9}( [a-z]{4,9}){3,8}", fullmatch=True))
def test_identical_texts_score_one(function: Callable[[str, str], float], text: str) -> None:
    assert function(text, text) == pytest.approx(1.0)


def test_long_texts_are_scored_or_skipped() -> None:
    long = "word " * 40_000
    assert rouge_l(long, long) is None
    for function in (token_f1, chrf, bleu, rouge_1, similarity):
        assert function(long, long) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "function"), [("bleu", bleu), ("chrf", chrf)])
def test_scores_equal_those_of_the_sacrebleu_command(
    tmp_path: Path, metric: str, function: Callable[[str, str], float]
) -> None:
    (tmp_path / "references.txt").write_text("".join(f"{reference}\n" for _, reference in PAIRS), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references.txt", "--metrics", metric, "--sentence-level"]
    done = subprocess.run(
        [*command, "--width", "6", "--score-only"],
        input="".join(f"{answer}\n" for answer, _ in PAIRS).encode(),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert [float(line) for line in done.stdout.split()] == pytest.approx(
        [100 * function(*pair) for pair in PAIRS], abs=1e-5
    )


@pytest.mark.slow
def test_scores_equal_those_of_the_rouge_score_command(tmp_path: Path) -> None:
    (tmp_path / "answers.txt").write_text("".join(answer + "\n" for answer, _ in PAIRS), encoding="utf-8")
    (tmp_path / "references.txt").write_text("".join(reference + "\n" for _, reference in PAIRS), encoding="utf-8")
    command = [sys.executable, "-m", "rouge_score.rouge", "--target_filepattern", str(tmp_path / "references.txt")]
    command += ["--prediction_filepattern", str(tmp_path / "answers.txt"), "--rouge_types", "rouge1,rouge2,rougeL"]
    command += ["--output_filename", str(tmp_path / "scores.csv"), "--aggregate=false", "--use_stemmer=false"]
    subprocess.run(command, capture_output=True, check=True)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(PAIRS)
    for row, pair in zip(rows, PAIRS, strict=True):
        for name, function in (("rouge1", rouge_1), ("rouge2", rouge_2), ("rougeL", rouge_l)):
            assert float(row[f"{name}-F"]) == pytest.approx(function(*pair), abs=1e-6)
