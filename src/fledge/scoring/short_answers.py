"""Scores of answers that come down to a number, a letter or a few words, as in GSM8K and in multiple choice."""

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

import regex

LONGEST_SEARCH_S = 1.0
LONGEST_NUMBER = 1000  # characters; far more than any reference

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
    """1 if the last number of the answer is that of the reference, else 0; none where the reference has no number.
    Higher is better. `1,234.50`, `-3`, `3/4`, `.5`, `1e6` and `$20` are numbers; `50 %` is both 50 and 0.5. Source: the
    usual way to grade answers to GSM8K (Cobbe et al. 2021)."""
    wanted = _last_number(reference)
    return float(bool(wanted & _last_number(answer))) if wanted else None


def choice(answer: str, reference: str) -> float | None:
    """1 if the answer chooses the letter of the reference (A to E), else 0, also where it chooses none; none where the
    reference is no letter. Higher is better. A choice is stated (`the answer is B`, `B is correct`, `\\boxed{B}`; the
    last counts), else leads a line (`B.`, `(B)`), else is the last option mentioned, else the last in brackets."""
    wanted = _choice(reference)
    return float(_choice(answer) == wanted) if wanted else None


def answer_pattern(answer: str, reference: str, answer_pattern: str) -> float:
    """1 if the last match of the regular expression (its first group, if it has one) is the reference, else 0. Case,
    white space, quotes, brackets and marks at the ends do not matter; numbers are compared as numbers. Higher is
    better. The expression is `--answer-pattern`, or the question's own in a column of that name; a search that takes
    over a second is an error."""
    matches = regex.compile(answer_pattern).finditer(answer, timeout=LONGEST_SEARCH_S)
    last = next(iter(deque(matches, maxlen=1)), None)
    found = _plain((last[1] if last.re.groups else last[0]) or "") if last else ""
    wanted = _plain(reference)
    if _NUMBER.fullmatch(found) and _NUMBER.fullmatch(wanted):
        return float(bool(_last_number(found) & _last_number(wanted)))
    return float(bool(found) and found == wanted)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?*\"'`<>()[]{}")


def suitable_scorer(references: Sequence[str]) -> str | None:
    """`number` where all references are numbers and nothing else, `choice` where all are letters from A to E."""
    texts = [text.strip().rstrip(".") for text in references if text.strip()]
    if texts and all(_NUMBER.fullmatch(text) for text in texts):
        return number.__name__
    if texts and all(re.fullmatch(rf"\(?{_LETTER}\)?", text) for text in texts):
        return choice.__name__
    return None


def _last_number(text: str) -> set[Fraction]:
    """What the last number may mean; empty where there is none."""
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


def _choice(text: str) -> str:
    stated = [match[match.lastgroup or 0] for match in _STATED.finditer(text)]
    ranked = (stated[-1:], _LED.findall(text)[:1], _MENTIONED.findall(text)[-1:], _BRACKETED.findall(text)[-1:])
    return str(next((found[0] for found in ranked if found), ""))
