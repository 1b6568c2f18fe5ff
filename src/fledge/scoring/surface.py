"""Scores of an answer's surface form, which do not measure correctness."""

import itertools
import json
import math
import re

_ENDS = (".", "?", "!", "\u3002", "\uff1f", "\uff01", "\u061f", "\u0964")
_SENTENCES = re.compile(r"[.?!\u3002\uff1f\uff01\u061f\u0964]+")
SHORTEST_FOR_LANGUAGE = 20  # characters; with fewer the language cannot be detected
# Beginnings of refusals, after the list of Zou et al. 2023 (Universal and Transferable Adversarial Attacks).
_REFUSAL = re.compile(
    r"(i'?m (very |so |really )?sorry|i apologi[sz]e|sorry,|unfortunately, i|i'm (unable|not able)"
    r"|i (can ?not|can'?t|won'?t|will not|am unable|am not able|do(n't| not) feel comfortable)|as an (ai|artificial)"
    r"|as a (large )?language model|i'?m (just )?an ai|i am (just )?an ai|it is not (appropriate|possible) for me)"
)


def response_length(answer: str) -> float:
    """Words in the answer, 0 or more. Neither way is better."""
    return float(len(answer.split()))


def empty(answer: str) -> float:
    """1 if the answer is empty or white space, else 0. Lower is better."""
    return float(not answer.strip())


def truncated(finish_reason: str) -> float:
    """1 if the answer was cut at the token limit, else 0. Lower is better. Source: the engine's finish
    reason, `length` in OpenAI's protocol."""
    return float(finish_reason == "length")


def refusal(answer: str) -> float:
    """1 if the answer begins with an English refusal phrase, else 0. Lower is better. Source: Zou et al. 2023."""
    return float(_REFUSAL.match(answer.strip().lower().replace("\u2019", "'")) is not None)


def rep_4(answer: str) -> float | None:
    """Share of repeated 4-grams of words, 0 to 1; none below four words. Lower is better. Source:
    rep-n of Welleck et al. 2020 (Neural Text Generation with Unlikelihood Training)."""
    distinct = _distinct_share(answer, 4)
    return None if distinct is None else 1 - distinct


def distinct_1(answer: str) -> float | None:
    """Distinct words over all words, 0 to 1. Higher is better; falls with length. Source: distinct-n of
    Li et al. 2016 (A Diversity-Promoting Objective Function)."""
    return _distinct_share(answer, 1)


def distinct_2(answer: str) -> float | None:
    """Distinct word pairs over all pairs, 0 to 1. Higher is better. Source: Li et al. 2016."""
    return _distinct_share(answer, 2)


def response_quality(answer: str) -> float:
    """Surface quality, 0 to 1: the mean of having at least three words, ending like a sentence, and the share of
    distinct word pairs. Higher is better. Does not measure correctness."""
    words = answer.split()
    distinct = _distinct_share(answer, 2)
    share = float(bool(words)) if distinct is None else distinct
    return (float(len(words) >= 3) + float(answer.rstrip().endswith(_ENDS)) + share) / 3


def question_quality(question: str) -> float:
    """Surface quality of the question, 0 to 1: the mean of having three to a hundred words, and ending like a sentence.
    Higher is better. The same for all arms."""
    return (float(3 <= len(question.split()) <= 100) + float(question.rstrip().endswith(_ENDS))) / 2


def language(answer: str, question: str, reference: str = "") -> float | None:
    """1 if the answer is in the language of the reference (of the question, for a reference below 20 characters), else
    0; none for JSON, and for answers or questions below 20 characters. Higher is better.
    Source: py3langid (Lui and Baldwin 2012)."""
    meant = reference if len(reference.strip()) >= SHORTEST_FOR_LANGUAGE else question
    if min(len(answer.strip()), len(meant.strip())) < SHORTEST_FOR_LANGUAGE or _is_json(answer):
        return None
    return float(_classify(answer) == _classify(meant))


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):
        return False


def readability(answer: str) -> float | None:
    """Automated readability index, roughly a US school grade: 4.71 characters a word + 0.5 words a sentence - 21.43.
    Neither way is better. For English. Source: Smith and Senter 1967."""
    words = answer.split()
    if not words:
        return None
    characters = sum(character.isalnum() for character in answer)
    sentences = max(1, sum(bool(part.strip()) for part in _SENTENCES.split(answer)))
    return 4.71 * characters / len(words) + 0.5 * len(words) / sentences - 21.43


def perplexity(logprobs: tuple[float, ...]) -> float:
    """Perplexity of the answer under the model, 1 or more: e to the negative mean log probability of its tokens. Lower
    is better. Not comparable between models with different tokenizers.
    Source: Jelinek et al. 1977; the engine's logprobs."""
    return max(1.0, math.exp(min(-sum(logprobs) / len(logprobs), 700.0)))


def _distinct_share(text: str, size: int) -> float | None:
    words = text.lower().split()
    runs = list(zip(*(itertools.islice(words, start, None) for start in range(size)), strict=False))
    return len(set(runs)) / len(runs) if runs else None


def _classify(text: str) -> str:
    import py3langid  # takes 0.3 s to load

    return str(py3langid.classify(text)[0])
