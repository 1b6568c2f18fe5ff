"""Scores of an answer by itself: a look at its surface, which says nothing of whether it is right."""

import itertools
import math
import re

_ENDS = (".", "?", "!", "\u3002", "\uff1f", "\uff01", "\u061f", "\u0964")
_SENTENCES = re.compile(r"[.?!\u3002\uff1f\uff01\u061f\u0964]+")
SHORTEST_FOR_LANGUAGE = 20  # characters; of fewer a language cannot be told
# How models begin to refuse, after the list of Zou et al. 2023 (Universal and Transferable Adversarial Attacks).
_REFUSAL = re.compile(
    r"(i'?m (very |so |really )?sorry|i apologi[sz]e|sorry,|unfortunately, i|i'm (unable|not able)"
    r"|i (can ?not|can'?t|won'?t|will not|am unable|am not able|do(n't| not) feel comfortable)|as an (ai|artificial)"
    r"|as a (large )?language model|i'?m (just )?an ai|i am (just )?an ai|it is not (appropriate|possible) for me)"
)


def response_length(answer: str) -> float:
    """Words in the answer, 0 or more. Neither way is better."""
    return float(len(answer.split()))


def empty(answer: str) -> float:
    """1 if the answer has nothing but white space, else 0. Lower is better."""
    return float(not answer.strip())


def truncated(finish_reason: str) -> float:
    """1 if the answer ended because it was at its greatest length, else 0. Lower is better. Source: the engine's finish
    reason, `length` in OpenAI's protocol."""
    return float(finish_reason == "length")


def refusal(answer: str) -> float:
    """1 if the answer begins as refusals do in English, else 0. Lower is better. Source: Zou et al. 2023, by words."""
    return float(_REFUSAL.match(answer.strip().lower().replace("\u2019", "'")) is not None)


def rep_4(answer: str) -> float | None:
    """The share of runs of four words that were there before, 0 to 1; none below four words. Lower is better. Source:
    rep-n of Welleck et al. 2020 (Neural Text Generation with Unlikelihood Training)."""
    different = _different(answer, 4)
    return None if different is None else 1 - different


def distinct_1(answer: str) -> float | None:
    """Different words over all words, 0 to 1. Higher is better; longer answers have lower ones. Source: distinct-n of
    Li et al. 2016 (A Diversity-Promoting Objective Function)."""
    return _different(answer, 1)


def distinct_2(answer: str) -> float | None:
    """Different pairs of words over all pairs, 0 to 1. Higher is better. Source: Li et al. 2016."""
    return _different(answer, 2)


def response_quality(answer: str) -> float:
    """A look at the surface, 0 to 1, higher is better: the mean of whether it has three words, whether it ends like a
    sentence, and the share of its word pairs that are different ones. Says nothing of whether it is right."""
    words = answer.split()
    different = _different(answer, 2)
    share = float(bool(words)) if different is None else different
    return (float(len(words) >= 3) + float(answer.rstrip().endswith(_ENDS)) + share) / 3


def question_quality(question: str) -> float:
    """A look at the surface, 0 to 1, higher is better: the mean of whether it has three to a hundred words, and
    whether it ends like a sentence. It is the question's own, alike for all arms."""
    return (float(3 <= len(question.split()) <= 100) + float(question.rstrip().endswith(_ENDS))) / 2


def language(answer: str, question: str, reference: str = "") -> float | None:
    """1 if the answer is in the language of the reference, or where that is below 20 characters of the question, else
    0; none for shorter answers and questions. Higher is better. Source: py3langid (Lui and Baldwin 2012)."""
    meant = reference if len(reference.strip()) >= SHORTEST_FOR_LANGUAGE else question
    if min(len(answer.strip()), len(meant.strip())) < SHORTEST_FOR_LANGUAGE:
        return None
    return float(_classify(answer) == _classify(meant))


def readability(answer: str) -> float | None:
    """The automated readability index, about the school grade that reads it with ease: 4.71 characters a word + 0.5
    words a sentence - 21.43, no bounds. Neither way is better. Made for English. Source: Smith and Senter 1967."""
    words = answer.split()
    if not words:
        return None
    characters = sum(character.isalnum() for character in answer)
    sentences = max(1, sum(bool(part.strip()) for part in _SENTENCES.split(answer)))
    return 4.71 * characters / len(words) + 0.5 * len(words) / sentences - 21.43


def perplexity(logprobs: tuple[float, ...]) -> float:
    """How little the model expected its own answer, 1 or more: e to the negative mean of its tokens' log
    probabilities. Lower is better between settings of one model; of two models with different tokens it says nothing.
    Source: Jelinek et al. 1977; the engine's logprobs."""
    return max(1.0, math.exp(min(-sum(logprobs) / len(logprobs), 700.0)))


def _different(text: str, size: int) -> float | None:
    words = text.lower().split()
    runs = list(zip(*(itertools.islice(words, start, None) for start in range(size)), strict=False))
    return len(set(runs)) / len(runs) if runs else None


def _classify(text: str) -> str:
    import py3langid  # it takes 0.3 s to load

    return str(py3langid.classify(text)[0])
