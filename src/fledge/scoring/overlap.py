"""Scores of an answer against a reference, from 0 to 1; higher is better."""

import unicodedata
from collections import Counter
from functools import cache
from typing import Any

import regex
from rapidfuzz import fuzz

MOST_COMPARED = 4_000_000  # product of word counts, the running time of ROUGE-L


def _words(text: str) -> list[str]:
    """Return lower-case words without punctuation and articles, as SQuAD's evaluation normalises; in any script."""
    plain = regex.sub(r"[\p{P}\p{S}]", "", unicodedata.normalize("NFC", text.lower()))
    return [word for word in plain.split() if word not in {"a", "an", "the"}]


def exact_match(answer: str, reference: str) -> float:
    """1 if the normalised words are equal, else 0. Higher is better. Source: SQuAD 1.1 (Rajpurkar et al. 2016)."""
    return float(_words(answer) == _words(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of word precision and recall, 0 to 1. Higher is better. Source: SQuAD 1.1, as `exact_match`."""
    mine, theirs = Counter(_words(answer)), Counter(_words(reference))
    if not mine or not theirs:
        return float(mine == theirs)
    common = (mine & theirs).total()
    return 2 * common / (mine.total() + theirs.total())


def chrf(answer: str, reference: str) -> float:
    """chrF2, the F-score of character n-grams up to 6, 0 to 1 (sacrebleu's, divided by 100). Higher is better. Source:
    Popović 2015; sacrebleu."""
    return _clip(_chrf().sentence_score(answer, [reference]).score / 100)


def bleu(answer: str, reference: str) -> float:
    """BLEU of one sentence with sacrebleu's smoothing and effective order, 0 to 1 (sacrebleu's, divided by 100).
    Higher is better. Coarse for single short answers. Source: Papineni et al. 2002; sacrebleu."""
    return _clip(_bleu().sentence_score(answer, [reference]).score / 100)


def rouge_1(answer: str, reference: str) -> float | None:
    """ROUGE-1, the F-score of words, 0 to 1. Higher is better. Source: Lin 2004; rouge-score, without stemming, on
    words of any script."""
    return _rouge("rouge1", answer, reference)


def rouge_2(answer: str, reference: str) -> float | None:
    """ROUGE-2, the F-score of word pairs, 0 to 1. Higher is better. Source: Lin 2004; rouge-score."""
    return _rouge("rouge2", answer, reference)


def rouge_l(answer: str, reference: str) -> float | None:
    """ROUGE-L, the F-score of the longest common subsequence of words, 0 to 1; none for very long texts. Higher is
    better. Source: Lin 2004; rouge-score."""
    return _rouge("rougeL", answer, reference)


def similarity(answer: str, reference: str) -> float:
    """Character similarity, 0 to 1: 1 minus the normalised number of insertions and deletions between the texts. Higher
    is better. Ignores meaning. Source: Levenshtein 1966; rapidfuzz's `fuzz.ratio`."""
    return fuzz.ratio(answer, reference) / 100


# sacrebleu takes 0.3 s to load and rouge-score 3 s, so they are loaded on first use.
@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class Words(Tokenizer):  # type: ignore[misc]
        """Words in any script; the default tokenizer knows a to z only."""

        def tokenize(self, text: str) -> list[str]:
            return list(regex.findall(r"[\p{L}\p{M}\p{N}]+", unicodedata.normalize("NFC", text.lower())))

    return RougeScorer([kind], tokenizer=Words())


def _rouge(kind: str, answer: str, reference: str) -> float | None:
    if kind == "rougeL" and len(answer.split()) * len(reference.split()) > MOST_COMPARED:
        return None
    return _clip(_rouge_scorer(kind).score(reference, answer)[kind].fmeasure)


def _clip(value: float) -> float:
    """Clip to 0 and 1, against rounding errors."""
    return min(max(float(value), 0.0), 1.0)
