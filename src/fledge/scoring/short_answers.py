"""Scores of answers that are a number, a letter or a few words, as in GSM8K and multiple choice."""

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

import regex

LONGEST_SEARCH_S = 1.0
LONGEST_NUMBER = 1000  # characters, far above any reference

_NUMBER = re.compile(
    r"(?<![\w.,/])(?P<sign>[-+\u2212\u2013]?)\s?[$\u20ac\u00a3]?\s?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)?(?P<part>\.\d+)?(?<=\d)(?P<exponent>[eE][-+]?\d{1,3}(?!\d))?"
    r"(?:\s?/\s?(?P<below>\d+))?\s?(?P<percent>%|percent\b|per cent\b)?"
)
_LETTER = "[A-E]"
_OPEN, _NAMED = "[\\s*\"'`(\u201c\u2018]*", r"(?i:(?:option|choice|answer)\s+)?"
_STATED = re.compile(
    rf"(?:\b(?i:answer|choice|option)[\s*]*(?i:is|would be|:)|\b(?i:answer|choose|pick|select|go with)\b)"
    rf"{_OPEN}:?{_OPEN}{_NAMED}{_OPEN}(?P<after>{_LETTER})\b(?!'\w)"
    rf"|\b(?P<before>{_LETTER})\b[*\"'`)\u201d\u2019]*\s+is\s+(?:the\s+)?(?i:correct|right|best)\b"
    rf"|\\boxed{{(?:\\text{{)?(?P<boxed>{_LETTER})}}"
)
_MENTIONED = re.compile(rf"\b(?i:option|choice)\s+{_OPEN}({_LETTER})\b(?!'\w)")
_LED = re.compile(rf"^{_OPEN}({_LETTER})\s*(?:[).:,*\"`\u201d]|'(?!\w)|$)", re.MULTILINE)
_BRACKETED = re.compile(rf"\(({_LETTER})\)")


def number(answer: str, reference: str) -> float | None:
    """1 if the last number in the answer equals that in the reference, else 0; none if the reference has no number.
    Higher is better. `1,234.50`, `-3`, `3/4`, `.5`, `1e6` and `$20` are numbers; `50 %` is both 50 and 0.5. Source: the
    usual way to grade answers to GSM8K (Cobbe et al. 2021)."""
    expected = _last_number_values(reference)
    return float(bool(expected & _last_number_values(answer))) if expected else None


def choice(answer: str, reference: str) -> float | None:
    """1 if the answer chooses the letter of the reference (A to E), else 0; none if the reference is not
    a letter. Higher is better. A choice is stated (`the answer is B`, `B is correct`, `\\boxed{B}`; the
    last counts), else leads a line (`B.`, `(B)`), else is the last option mentioned, else the last in brackets."""
    expected = _find_choice(reference)
    return float(_find_choice(answer) == expected) if expected else None


def answer_pattern(answer: str, reference: str, answer_pattern: str) -> float:
    """1 if the last match of the regular expression (its first group, if it has one) equals the reference, else 0.
    Ignores case, white space, and quotes, brackets and punctuation at the ends; numbers are compared as numbers. Higher
    is better. The expression is `--answer-pattern`, or the question's own in the column `answer_pattern`; a search
    longer than a second is an error."""
    matches = regex.compile(answer_pattern).finditer(answer, timeout=LONGEST_SEARCH_S)
    last = next(iter(deque(matches, maxlen=1)), None)
    found = _normalize((last[1] if last.re.groups else last[0]) or "") if last else ""
    expected = _normalize(reference)
    if _NUMBER.fullmatch(found) and _NUMBER.fullmatch(expected):
        return float(bool(_last_number_values(found) & _last_number_values(expected)))
    return float(bool(found) and found == expected)


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?*\"'`<>()[]{}")


def suitable_scorer(references: Sequence[str]) -> str | None:
    """Return `number` if all references are plain numbers, `choice` if all are letters from A to E, else None."""
    texts = [text.strip().rstrip(".") for text in references if text.strip()]
    if texts and all(_NUMBER.fullmatch(text) for text in texts):
        return number.__name__
    if texts and all(re.fullmatch(rf"\(?{_LETTER}\)?", text) for text in texts):
        return choice.__name__
    return None


def _last_number_values(text: str) -> set[Fraction]:
    """Return the possible values of the last number, empty if there is none."""
    found = next(iter(deque(_NUMBER.finditer(text), maxlen=1)), None)
    if found is None:
        return set()
    if len(found[0]) > LONGEST_NUMBER:
        return set()
    value = Fraction((found["whole"] or "0").replace(",", "") + (found["part"] or "") + (found["exponent"] or ""))
    if found["below"] and int(found["below"]):
        value /= int(found["below"])
    value = -value if found["sign"] in ("-", "\u2212", "\u2013") else value
    return {value, value / 100} if found["percent"] else {value}


def _find_choice(text: str) -> str:
    stated = [match[match.lastgroup or 0] for match in _STATED.finditer(text)]
    ranked = (stated[-1:], _LED.findall(text)[:1], _MENTIONED.findall(text)[-1:], _BRACKETED.findall(text)[-1:])
    return str(next((found[0] for found in ranked if found), ""))
