"""Scores of one answer. Each scorer says its range and whether higher is better; none needs a network."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple


class Scorer(NamedTuple):
    """A named score: `function(answer, reference)`; `higher_is_better` is None where neither way is better."""

    name: str
    function: Callable[[str, str], float]
    higher_is_better: bool | None
    needs_reference: bool


_ENDS = (".", "?", "!", "\u3002", "\uff1f", "\uff01", "\u061f", "\u0964")


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


def response_quality(answer: str, _reference: str) -> float:
    """A look at the surface, 0 to 1, higher is better: the mean of whether it has three words, whether it ends like a
    sentence, and the share of its word pairs that are different ones. Says nothing of whether it is right."""
    words = answer.split()
    pairs = list(itertools.pairwise(words))
    different = len(set(pairs)) / len(pairs) if pairs else float(bool(words))
    return (float(len(words) >= 3) + float(answer.rstrip().endswith(_ENDS)) + different) / 3


def question_quality(question: str) -> float:
    """A look at the surface, 0 to 1, higher is better: the mean of whether it has three to a hundred words, and
    whether it ends like a sentence. It is the question's own, alike for all arms."""
    return (float(3 <= len(question.split()) <= 100) + float(question.rstrip().endswith(_ENDS))) / 2


SCORERS: Final = {
    scorer.name: scorer
    for scorer in (
        Scorer("token_f1", token_f1, True, True),
        Scorer("exact_match", exact_match, True, True),
        Scorer("response_length", response_length, None, False),
        Scorer("response_quality", response_quality, True, False),
        Scorer("empty", empty, False, False),
    )
}


def score(answer: str, reference: str | None, names: Sequence[str] = ()) -> dict[str, float]:
    """The scores named, all of them unless some are, as far as the row allows."""
    return {
        name: SCORERS[name].function(answer, reference or "")
        for name in names or SCORERS
        if reference is not None or not SCORERS[name].needs_reference
    }
