"""Scores of one answer. Each scorer says its range and whether higher is better; none needs a network."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple


class Scorer(NamedTuple):
    """A named score: `function(answer, reference)`; `higher_is_better` is None where neither way is better."""

    name: str
    function: Callable[[str, str], float]
    higher_is_better: bool | None
    needs_reference: bool


def _words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles, as SQuAD's official evaluation normalises."""
    plain = re.sub(r"[^\w\s]", "", text.lower())
    return [word for word in plain.split() if word not in {"a", "an", "the"}]


def exact_match(answer: str, reference: str) -> float:
    """1 if the normalised words are the same, else 0. Higher is better. Source: SQuAD 1.1 (Rajpurkar et al. 2016)."""
    return float(_words(answer) == _words(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of word precision and recall, 0 to 1. Higher is better. Source: SQuAD 1.1, as `exact_match`."""
    mine, theirs = Counter(_words(answer)), Counter(_words(reference))
    if not mine or not theirs:
        return float(mine == theirs)
    common = (mine & theirs).total()
    return 2 * common / (mine.total() + theirs.total())


def response_length(answer: str, _reference: str) -> float:
    """Words in the answer, 0 or more. Neither way is better."""
    return float(len(answer.split()))


def empty(answer: str, _reference: str) -> float:
    """1 if the answer has nothing but white space, else 0. Lower is better."""
    return float(not answer.strip())


SCORERS: Final = {
    scorer.name: scorer
    for scorer in (
        Scorer("token_f1", token_f1, True, True),
        Scorer("exact_match", exact_match, True, True),
        Scorer("response_length", response_length, None, False),
        Scorer("empty", empty, False, False),
    )
}


def score(answer: str, reference: str | None) -> dict[str, float]:
    """All scores that the row allows."""
    return {
        scorer.name: scorer.function(answer, reference or "")
        for scorer in SCORERS.values()
        if reference is not None or not scorer.needs_reference
    }
